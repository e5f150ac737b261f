//! Mirrors: which tags of a remote repository are brought into which local one.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::enabled;
use super::platforms::Platforms;
use crate::duration::DurationText;
use crate::name::{RemoteRepository, Repository, ResourceName};
use crate::name_regex::NameRegex;
use crate::pattern::Pattern;
use crate::target::split_registry;

/// The shortest time between two polls of one mirror.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(2);

/// A remote repository whose tags are copied into a local one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// Its name.
    pub name: ResourceName,
    /// Where images come from.
    pub from: RemoteRepository,
    /// Where they go: into the internal registry, where they are judged.
    #[serde(deserialize_with = "local")]
    pub to: Repository,
    /// Which tags.
    #[serde(default)]
    pub tags: TagSelection,
    /// Which platforms of an index.
    #[serde(default, skip_serializing_if = "Platforms::is_all")]
    pub platforms: Platforms,
    /// How often the remote is asked.
    #[serde(default = "default_interval")]
    pub every: DurationText,
    /// What happens here when a tag disappears there.
    #[serde(default)]
    pub on_delete: OnDelete,
    /// Off stops the schedule and keeps what there is.
    #[serde(default = "enabled")]
    pub enabled: bool,
}

/// Chooses tags: included, not excluded, in the version range, then the newest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagSelection {
    /// A version range over real Docker tags, as in `>=3.18`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub semver: Option<String>,
    /// Only tags that match one of these, or of `regex`; both empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<Pattern>,
    /// Only tags that match one of these as a whole, or one of `include`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regex: Vec<NameRegex>,
    /// No tag that matches one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Pattern>,
    /// No tag that matches one of these as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_regex: Vec<NameRegex>,
    /// At most so many, highest version first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<u32>,
}

/// What happens to a mirrored tag that disappeared upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDelete {
    /// It stays.
    #[default]
    Keep,
    /// It goes too.
    Delete,
}

/// Refuses a remote registry by name: what is mirrored is not judged yet.
fn local<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Repository, D::Error> {
    let text = String::deserialize(deserializer)?;
    if let Some((host, _)) = split_registry(&text) {
        return Err(D::Error::custom(format_args!(
            "a mirror cannot copy into the remote registry `{host}`, because nothing would have judged the images; mirror \
             into a repository here, as in `hub/app`, and add a PromotionPolicy with `from` that repository and `to: {text}`"
        )));
    }
    text.parse().map_err(D::Error::custom)
}

const fn default_interval() -> DurationText {
    DurationText::from_secs(15 * 60)
}

impl Mirror {
    pub(super) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if self.every.duration() < SHORTEST_INTERVAL {
            faults.push((
                "every",
                "the shortest interval is `2s`; 15m is polite".to_owned(),
            ));
        }
        if self.tags.newest == Some(0) {
            faults.push((
                "tags",
                "`newest: 0` selects nothing; remove it, or set `enabled: false`".to_owned(),
            ));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use crate::resources::documents;

    #[test]
    fn a_mirror_into_a_remote_registry_is_refused_with_the_way_to_do_it() {
        for to in ["registry.example/team/a", "127.0.0.1:5000/team/a"] {
            let text = format!("kind: Mirror\nname: a\nfrom: docker.io/library/a\nto: {to}\n");
            let problems = documents(&text).unwrap_err();
            assert_eq!((problems.len(), problems[0].line), (1, 4), "{problems:?}");
            let message = &problems[0].message;
            for told in ["PromotionPolicy", "hub/app", &format!("to: {to}")] {
                assert!(message.contains(told), "{message}");
            }
        }
    }
}
