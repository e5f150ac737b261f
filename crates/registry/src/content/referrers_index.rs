//! Indexes of referrers: signatures, attestations, SBOMs (OCI distribution specification 1.1, referrers tag schema).
//!
//! What an index says of a referrer is read from the bytes of the referrer.

use serde_json::{Map, Value};
use sluice_domain::Digest;

use crate::content::canonical_json;
use crate::content::manifest::{Content, MAX_REFERENCES, Manifest, OCI_INDEX};
use crate::error::Error;

/// The largest index of referrers that is written.
const MAX_INDEX: usize = 2 << 20;
/// The most bytes of annotations that an index repeats of one referrer.
const MAX_ANNOTATIONS: usize = 16 << 10;

impl Manifest {
    /// Returns the digest of its `subject`.
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

    /// Returns an index with the referrers added to those of another one; none if it has them all.
    ///
    /// The entries that the index has stay as they are. An added entry repeats what the referrer says of itself.
    ///
    /// # Errors
    /// A manifest that is no index.
    pub fn add_referrers(before: Option<&Self>, referrers: &[Self]) -> Result<Option<Self>, Error> {
        let mut entries: Vec<Value> = referrers.iter().map(entry_of).collect();
        entries.sort_by_cached_key(|entry| digest_in(entry).map(ToOwned::to_owned));
        add_entries(before, entries)
    }

    /// Returns an index of referrers with the further entries of another one.
    ///
    /// # Errors
    /// A manifest that is no index.
    pub fn merge_referrers(&self, other: &Self) -> Result<Self, Error> {
        let merged = add_entries(Some(self), entries(other)?)?;
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

/// Returns the entry of a referrer; its artifact type is that of its configuration if it names none.
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
    if let Some(annotations) = document
        .get("annotations")
        .filter(|annotations| annotations.is_object())
        && annotations.to_string().len() <= MAX_ANNOTATIONS
    {
        entry.insert("annotations".to_owned(), annotations.clone());
    }
    Value::Object(entry)
}

fn add_entries(before: Option<&Manifest>, more: Vec<Value>) -> Result<Option<Manifest>, Error> {
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
        if listed.len() >= MAX_REFERENCES || size > MAX_INDEX {
            tracing::warn!("the index of referrers is full; the rest is left out");
            break;
        }
        listed.push(entry);
    }
    if listed.len() == had {
        return Ok(None);
    }
    let media_type = before.map_or(OCI_INDEX, |before| before.media_type.as_str());
    let mut raw = String::new();
    canonical_json::write(&Value::Object(list), &mut raw);
    Manifest::parse("referrers", media_type, raw.into()).map(Some)
}

#[cfg(test)]
mod tests;
