//! Mirrors: which tags of a remote repository are copied into which local one.

use std::time::Duration;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::duration::DurationText;
use crate::name::name_regex::NameRegex;
use crate::name::pattern::Pattern;
use crate::name::platform_filter::PlatformFilter;
use crate::name::{RemoteRepository, Repository, ResourceName, split_registry};
use crate::resources::condition::enabled;

/// The shortest time between two polls of one mirror.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(2);

/// A remote repository whose tags are copied into a local one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// Name of the resource.
    pub name: ResourceName,
    /// Upstream repository.
    pub from: RemoteRepository,
    /// Repository of the internal registry to mirror into.
    #[serde(deserialize_with = "local")]
    pub to: Repository,
    /// Tags to mirror; all if it is left out.
    #[serde(default)]
    pub tags: TagSelection,
    /// Platforms of an index to mirror: `all`, or a list.
    #[serde(default, skip_serializing_if = "PlatformFilter::is_all")]
    pub platforms: PlatformFilter,
    /// Interval between two polls.
    #[serde(default = "default_interval")]
    pub every: DurationText,
    /// What to do with a tag that was deleted upstream.
    #[serde(default)]
    pub on_delete: OnDelete,
    /// `false` stops polling; mirrored tags stay.
    #[serde(default = "enabled")]
    pub enabled: bool,
}

/// Chooses tags: included, not excluded, in the version range, then the newest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TagSelection {
    /// Version range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub semver: Option<String>,
    /// Patterns of tags to mirror; without `include` and `regex` all tags are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<Pattern>,
    /// Regular expressions of tags to mirror, each for the whole tag, in addition to `include`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regex: Vec<NameRegex>,
    /// Patterns of tags to leave out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Pattern>,
    /// Regular expressions of tags to leave out, each for the whole tag.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_regex: Vec<NameRegex>,
    /// Number of tags to mirror at most, the newest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<u32>,
}

/// What happens to a mirrored tag that disappeared upstream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnDelete {
    /// Keep the mirrored tag.
    #[default]
    Keep,
    /// Delete the mirrored tag.
    Delete,
}

/// Refuses a remote registry by name: mirrored images are not evaluated yet.
fn local<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Repository, D::Error> {
    let text = String::deserialize(deserializer)?;
    if let Some((host, _)) = split_registry(&text) {
        return Err(D::Error::custom(format_args!(
            "a mirror cannot copy into the remote registry `{host}`, because no policy would have evaluated the images; mirror \
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
    use crate::resources::parse_documents;

    #[test]
    fn a_mirror_into_a_remote_registry_is_refused_with_the_way_to_do_it() {
        for to in ["registry.example/team/a", "127.0.0.1:5000/team/a"] {
            let text = format!("kind: Mirror\nname: a\nfrom: docker.io/library/a\nto: {to}\n");
            let problems = parse_documents(&text).unwrap_err();
            assert_eq!((problems.len(), problems[0].line), (1, 4), "{problems:?}");
            let message = &problems[0].message;
            for expected in ["PromotionPolicy", "hub/app", &format!("to: {to}")] {
                assert!(message.contains(expected), "{message}");
            }
        }
    }
}
