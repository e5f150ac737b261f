//! What refers to a manifest: signatures, attestations, SBOMs (OCI distribution specification 1.1).
//!
//! What a registry lists as referrers is a hint: each of them is fetched by digest and has to name its subject itself, and
//! what is written of it into a list is read from its bytes.

use reqwest::header::ACCEPT;
use serde_json::{Map, Value};
use sluice_domain::{Digest, Repository};

use crate::answers;
use crate::budget::Spending;
use crate::client::{Client, limited, what};
use crate::error::Error;
use crate::manifest::{Content, Descriptor, MAX_REFERENCES, Manifest, OCI_INDEX};
use crate::platforms::write;
use crate::retry::with_retries;

/// The largest page of a list of referrers, and the largest list that is written.
const MAX_LIST: usize = 4 << 20;
const MAX_PAGES: usize = 16;
/// The most referrers of one manifest that are looked at.
const MAX_REFERRERS: usize = 256;
/// The most bytes of notes that a list repeats of one referrer.
const MAX_NOTES: usize = 16 << 10;
impl Client {
    /// Lists what a registry says refers to a manifest; nothing if it has no such list, for any manifest.
    ///
    /// # Errors
    /// A failing registry, or an answer that is no list of referrers.
    pub async fn referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
    ) -> Result<Option<Vec<Descriptor>>, Error> {
        with_retries(|| self.referrers_once(repository, subject)).await
    }

    async fn referrers_once(
        &self,
        repository: &Repository,
        subject: &Digest,
    ) -> Result<Option<Vec<Descriptor>>, Error> {
        let what = what(repository, subject);
        let scope = [format!("repository:{repository}:pull")];
        let mut found: Vec<Descriptor> = Vec::new();
        let mut next = Some(self.url(&format!("{repository}/referrers/{subject}"))?);
        for _ in 0..MAX_PAGES {
            let Some(url) = next else {
                return Ok(Some(found));
            };
            self.may_ask(Spending::Listing).await?;
            let request = |http: &reqwest::Client| http.get(url.clone()).header(ACCEPT, OCI_INDEX);
            let action = "list the referrers of";
            let answer = self.send(action, &what, &scope, request).await?;
            let status = answer.status().as_u16();
            // Whatever a registry says of an address that it does not know.
            if (300..400).contains(&status) || [400, 403, 404, 405, 406, 410, 501].contains(&status)
            {
                return Ok(None);
            }
            let answer = self.accept(action, &what, answer, &[200]).await;
            let answer = self.heeded(Spending::Listing, answer).await?;
            if answers::media_type(answer.headers()) != OCI_INDEX {
                return Err(Error::untrusted(what, "its list of referrers is no index"));
            }
            let following = answers::next_page(&url, answer.headers());
            next = following.map_err(|reason| Error::untrusted(&what, reason))?;
            let raw = limited(&what, answer, MAX_LIST).await?;
            let page = Manifest::read(&what, OCI_INDEX, raw)?;
            found.extend(page.children().iter().cloned());
            if found.len() > MAX_REFERRERS {
                tracing::warn!(what, "it has more than 256 referrers; the others are left");
                found.truncate(MAX_REFERRERS);
                return Ok(Some(found));
            }
        }
        let reason = "its list of referrers has more than 16 pages";
        Err(Error::untrusted(what, reason))
    }
}

impl Manifest {
    /// Returns what the manifest says that it refers to.
    #[must_use]
    pub fn subject(&self) -> Option<Digest> {
        let document: Value = serde_json::from_slice(&self.raw).ok()?;
        document
            .get("subject")?
            .get("digest")?
            .as_str()?
            .parse()
            .ok()
    }

    /// Returns a list of referrers with some more in it; nothing if there is nothing to add.
    ///
    /// What the list says already stays as it is. What is added says what the manifests say of themselves.
    ///
    /// # Errors
    /// A list that is no index.
    pub fn listing(before: Option<&Self>, referrers: &[Self]) -> Result<Option<Self>, Error> {
        let mut entries: Vec<Value> = referrers.iter().map(entry_of).collect();
        entries.sort_by_cached_key(|entry| digest_in(entry).map(ToOwned::to_owned));
        with(before, entries)
    }

    /// Returns a list of referrers with what another one has in addition; itself if that has nothing.
    ///
    /// # Errors
    /// A list that is no index.
    pub fn merged(&self, other: &Self) -> Result<Self, Error> {
        let merged = with(Some(self), entries(other)?)?;
        Ok(merged.unwrap_or_else(|| self.clone()))
    }
}

fn digest_in(entry: &Value) -> Option<&str> {
    entry.get("digest")?.as_str()
}

fn entries(list: &Manifest) -> Result<Vec<Value>, Error> {
    let document = document(list)?;
    let listed = document.get("manifests").and_then(Value::as_array);
    Ok(listed.cloned().unwrap_or_default())
}

fn document(list: &Manifest) -> Result<Map<String, Value>, Error> {
    let refuse = || Error::untrusted(&list.digest, "it is no list of referrers");
    if !matches!(list.content, Content::Index { .. }) {
        return Err(refuse());
    }
    serde_json::from_slice(&list.raw).map_err(|_| refuse())
}

/// Returns what a list says of a referrer; the kind of one that names none is that of its configuration.
fn entry_of(referrer: &Manifest) -> Value {
    let document: Value = serde_json::from_slice(&referrer.raw).unwrap_or_default();
    let mut entry = Map::new();
    entry.insert("mediaType".to_owned(), referrer.media_type.clone().into());
    entry.insert("digest".to_owned(), referrer.digest.as_str().into());
    entry.insert("size".to_owned(), referrer.raw.len().into());
    let kind = document.get("artifactType").and_then(Value::as_str);
    let kind = kind.filter(|kind| !kind.is_empty()).or({
        match &referrer.content {
            Content::Image { config, .. } => Some(config.media_type.as_str()),
            Content::Index { .. } => None,
        }
    });
    if let Some(kind) = kind {
        entry.insert("artifactType".to_owned(), kind.into());
    }
    if let Some(notes) = document
        .get("annotations")
        .filter(|notes| notes.is_object())
        && notes.to_string().len() <= MAX_NOTES
    {
        entry.insert("annotations".to_owned(), notes.clone());
    }
    Value::Object(entry)
}

fn with(before: Option<&Manifest>, more: Vec<Value>) -> Result<Option<Manifest>, Error> {
    let mut list = match before {
        Some(before) => document(before)?,
        None => Map::from_iter([
            ("schemaVersion".to_owned(), 2.into()),
            ("mediaType".to_owned(), OCI_INDEX.into()),
        ]),
    };
    let listed = list
        .entry("manifests")
        .or_insert_with(|| Value::Array(Vec::new()));
    let Value::Array(listed) = listed else {
        return Err(Error::untrusted("referrers", "it is no list of referrers"));
    };
    let had = listed.len();
    let mut size = before.map_or(0, |before| before.raw.len());
    for entry in more {
        let is_there = listed
            .iter()
            .any(|there| digest_in(there) == digest_in(&entry));
        size = size.saturating_add(entry.to_string().len() + 1);
        if is_there {
            continue;
        }
        if listed.len() >= MAX_REFERENCES || size > MAX_LIST / 2 {
            tracing::warn!("a list of referrers is full; the others are left out of it");
            break;
        }
        listed.push(entry);
    }
    if listed.len() == had {
        return Ok(None);
    }
    let media_type = before.map_or(OCI_INDEX, |before| before.media_type.as_str());
    let mut raw = String::new();
    write(&Value::Object(list), &mut raw);
    Manifest::read("referrers", media_type, raw.into()).map(Some)
}

#[cfg(test)]
mod tests;
