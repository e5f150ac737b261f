//! Filtered indexes: an index without the platforms that a filter excludes.
//!
//! This is the one manifest that is not copied byte for byte (invariant 3). Its bytes depend on the index and the filter
//! alone, so that it has the same digest each time.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;
use sluice_domain::Digest;
use sluice_domain::resources::PlatformFilter;

use crate::content::canonical_json;
use crate::content::manifest::descriptor::Descriptor;
use crate::content::manifest::{Content, Manifest};
use crate::error::Error;

/// The annotation of a filtered index with the digest of its source.
const SOURCE: &str = "dev.sluice.source-digest";
/// The annotation of a filtered index with the filter.
const FILTER: &str = "dev.sluice.platforms";
/// The annotation of an attestation with the digest of its subject.
const ATTESTED: &str = "vnd.docker.reference.digest";
/// How many of an index's platforms an error names.
const MAX_OFFERED: usize = 20;

impl Manifest {
    /// Returns the index with only the platforms that pass a filter; itself if all of them do.
    ///
    /// The attestations of the manifests that stay are kept too. Descriptors are not changed.
    ///
    /// # Errors
    /// [`Error::NoPlatform`] if no platform passes, or for a manifest that is no index.
    pub fn filter_platforms(&self, filter: &PlatformFilter) -> Result<Self, Error> {
        let Content::Index { children } = &self.content else {
            return Err(self.no_platform(filter, String::new()));
        };
        if filter.is_all() {
            return Ok(self.clone());
        }
        let platform = |child: &Descriptor| child.platform.as_ref()?.platform();
        let is_wanted = |child: &Descriptor| {
            !child.is_marked_attestation()
                && platform(child).is_some_and(|platform| filter.want(&platform))
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
            offered.truncate(MAX_OFFERED);
            return Err(self.no_platform(filter, offered.join(", ")));
        }
        let keeps: Vec<bool> = children
            .iter()
            .map(|child| {
                if !child.is_marked_attestation() {
                    return is_wanted(child);
                }
                let annotations = child.annotations.as_ref();
                let subject = annotations.and_then(|annotations| annotations.get(ATTESTED));
                subject.is_some_and(|subject| kept.contains(subject.as_str()))
            })
            .collect();
        if keeps.iter().all(|keep| *keep) {
            return Ok(self.clone());
        }
        self.retain_children(&keeps, filter)
    }

    /// Returns whether this is a filtered index of a source and a filter, by its own annotations.
    #[must_use]
    pub fn is_filtered_from(&self, source: &Digest, filter: &PlatformFilter) -> bool {
        let is_of = |noted: &Value| noted.as_str() == Some(filter.to_string().as_str());
        self.filtered_from().as_ref() == Some(source)
            && self.annotation(FILTER).as_ref().is_some_and(is_of)
    }

    fn annotation(&self, key: &str) -> Option<Value> {
        let document: Value = serde_json::from_slice(&self.raw).ok()?;
        document.get("annotations")?.get(key).cloned()
    }

    /// Returns the source of a filtered index, by its own annotation.
    #[must_use]
    pub fn filtered_from(&self) -> Option<Digest> {
        self.annotation(SOURCE)?.as_str()?.parse().ok()
    }

    /// Returns the error of a manifest of which no platform passes a filter.
    pub(crate) fn no_platform(&self, filter: &PlatformFilter, offered: String) -> Error {
        Error::NoPlatform {
            object: self.digest.to_string(),
            wanted: filter.to_string(),
            offered,
        }
    }

    /// Returns the index with only the children that are kept.
    fn retain_children(&self, keeps: &[bool], filter: &PlatformFilter) -> Result<Self, Error> {
        let no_index = || Error::untrusted(&self.digest, "it is no index");
        let mut document: BTreeMap<String, Value> =
            serde_json::from_slice(&self.raw).map_err(|_| no_index())?;
        let children = document.get_mut("manifests").and_then(Value::as_array_mut);
        let mut keep = keeps.iter();
        children
            .ok_or_else(no_index)?
            .retain(|_| keep.next().copied().unwrap_or(false));
        let annotations = document
            .entry("annotations".to_owned())
            .or_insert(Value::Null);
        if !annotations.is_object() {
            *annotations = Value::Object(serde_json::Map::new());
        }
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(SOURCE.to_owned(), Value::from(self.digest.as_str()));
            annotations.insert(FILTER.to_owned(), Value::from(filter.to_string()));
        }
        let mut raw = String::new();
        canonical_json::write(&Value::from_iter(document), &mut raw);
        Self::parse(self.digest.as_str(), &self.media_type, raw.into())
    }
}

#[cfg(test)]
mod tests;
