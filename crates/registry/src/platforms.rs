//! A part of an index: the same without the platforms that are not wanted.
//!
//! The one manifest that is not passed on byte for byte (invariant 3). What is left out depends on the index and on the
//! list alone, and so do the bytes: whoever makes the part again gets the same digest.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;
use sluice_domain::resources::Platforms;
use sluice_domain::{Digest, Repository};

use crate::client::Client;
use crate::error::Error;
use crate::manifest::{Content, Descriptor, Manifest};

/// The annotation of a part with the digest of the whole.
const SOURCE: &str = "dev.sluice.source-digest";
/// The annotation of a part with the platforms that were wanted.
const WANTED: &str = "dev.sluice.platforms";
/// The annotation with which an attestation names the manifest that it speaks of.
const SPEAKS_OF: &str = "vnd.docker.reference.digest";
/// How many of the platforms that an index has are told.
const TOLD: usize = 20;

impl Manifest {
    /// Returns the index without the platforms that are not wanted, and itself where none is left out.
    ///
    /// The attestations of what is kept are kept. The descriptors that are kept say what they said.
    ///
    /// # Errors
    /// [`Error::NoPlatform`] for an index that has none of them, or that is no index.
    pub fn part(&self, wanted: &Platforms) -> Result<Self, Error> {
        let Content::Index { children } = &self.content else {
            return Err(self.lacks(wanted, String::new()));
        };
        if wanted.is_all() {
            return Ok(self.clone());
        }
        let platform = |child: &Descriptor| child.platform.as_ref()?.platform();
        let is_wanted = |child: &Descriptor| {
            !child.is_called_attestation()
                && platform(child).is_some_and(|platform| wanted.want(&platform))
        };
        let wanted_ones = children.iter().filter(|child| is_wanted(child));
        let kept: HashSet<&str> = wanted_ones.map(|child| child.digest.as_str()).collect();
        if kept.is_empty() {
            let mut offered: Vec<String> = children
                .iter()
                .filter_map(platform)
                .map(|platform| platform.to_string())
                .collect();
            offered.sort_unstable();
            offered.dedup();
            offered.truncate(TOLD);
            return Err(self.lacks(wanted, offered.join(", ")));
        }
        let keeps: Vec<bool> = children
            .iter()
            .map(|child| {
                if !child.is_called_attestation() {
                    return is_wanted(child);
                }
                let notes = child.annotations.as_ref();
                let subject = notes.and_then(|notes| notes.get(SPEAKS_OF));
                subject.is_some_and(|subject| kept.contains(subject.as_str()))
            })
            .collect();
        if keeps.iter().all(|keep| *keep) {
            return Ok(self.clone());
        }
        self.without(&keeps, wanted)
    }

    /// Says whether this is a part of an index that was made for these platforms, as it says itself.
    #[must_use]
    pub fn is_part(&self, whole: &Digest, wanted: &Platforms) -> bool {
        let is_of = |noted: &Value| noted.as_str() == Some(wanted.to_string().as_str());
        self.part_of().as_ref() == Some(whole) && self.note(WANTED).as_ref().is_some_and(is_of)
    }

    fn note(&self, key: &str) -> Option<Value> {
        let document: Value = serde_json::from_slice(&self.raw).ok()?;
        document.get("annotations")?.get(key).cloned()
    }

    /// Returns the digest of the index that this is a part of, as the part itself says.
    #[must_use]
    pub fn part_of(&self) -> Option<Digest> {
        self.note(SOURCE)?.as_str()?.parse().ok()
    }

    fn lacks(&self, wanted: &Platforms, offered: String) -> Error {
        Error::NoPlatform {
            what: self.digest.to_string(),
            wanted: wanted.to_string(),
            offered,
        }
    }

    fn without(&self, keeps: &[bool], wanted: &Platforms) -> Result<Self, Error> {
        let broken = || Error::untrusted(&self.digest, "it is no index");
        let mut document: BTreeMap<String, Value> =
            serde_json::from_slice(&self.raw).map_err(|_| broken())?;
        let children = document.get_mut("manifests").and_then(Value::as_array_mut);
        let mut keep = keeps.iter();
        children
            .ok_or_else(broken)?
            .retain(|_| keep.next().copied().unwrap_or(false));
        let notes = document
            .entry("annotations".to_owned())
            .or_insert(Value::Null);
        if !notes.is_object() {
            *notes = Value::Object(serde_json::Map::new());
        }
        if let Some(notes) = notes.as_object_mut() {
            notes.insert(SOURCE.to_owned(), Value::from(self.digest.as_str()));
            notes.insert(WANTED.to_owned(), Value::from(wanted.to_string()));
        }
        let mut raw = String::new();
        write(&Value::from_iter(document), &mut raw);
        Self::read(self.digest.as_str(), &self.media_type, raw.into())
    }
}

/// Writes a document without white space, its keys in order at every level.
pub(crate) fn write(value: &Value, to: &mut String) {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<&String, &Value> = fields.iter().collect();
            to.push('{');
            for (nth, (key, field)) in fields.into_iter().enumerate() {
                if nth > 0 {
                    to.push(',');
                }
                write(&Value::from(key.as_str()), to);
                to.push(':');
                write(field, to);
            }
            to.push('}');
        }
        Value::Array(items) => {
            to.push('[');
            for (nth, item) in items.iter().enumerate() {
                if nth > 0 {
                    to.push(',');
                }
                write(item, to);
            }
            to.push(']');
        }
        scalar => to.push_str(&scalar.to_string()),
    }
}

impl Client {
    /// Fetches what is to be copied where only some platforms are wanted: a part of an index, or a whole image.
    ///
    /// # Errors
    /// [`Error::NoPlatform`] where there is none of them; a failing registry.
    pub async fn part(
        &self,
        repository: &Repository,
        digest: &Digest,
        wanted: &Platforms,
    ) -> Result<Manifest, Error> {
        let whole = self.manifest(repository, &digest.into()).await?;
        let Content::Image { config, .. } = &whole.content else {
            return whole.part(wanted);
        };
        let config = self.config(repository, config).await?;
        match config.platform.platform() {
            Some(platform) if wanted.want(&platform) => Ok(whole),
            Some(platform) => Err(whole.lacks(wanted, platform.to_string())),
            None => Err(whole.lacks(wanted, String::new())),
        }
    }
}

#[cfg(test)]
mod tests;
