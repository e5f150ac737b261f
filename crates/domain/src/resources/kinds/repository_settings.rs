//! Settings of local repositories: who sees them, when they are scanned, and how many tags they keep.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::name::pattern::Pattern;
use crate::name::{Repository, ResourceName};

/// The largest tag limit of a repository.
const MOST_KEPT: u32 = 100_000;

/// Who may pull without an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Accounts only.
    #[default]
    Private,
    /// Everybody, without an account.
    Public,
}

/// When images are scanned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScanMode {
    /// When an image is pushed or mirrored.
    #[default]
    OnPush,
    /// On demand only.
    Manual,
}

/// What becomes of an image that stands in a target without a decision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unauthorised {
    /// Publish `image.unauthorised`.
    #[default]
    Report,
    /// Publish `image.unauthorised`, and restore or remove the tag.
    Revert,
}

/// Which of two tags is the newer, for a tag limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeepOrder {
    /// By version; tags without a version by arrival.
    #[default]
    Version,
    /// By arrival.
    Pushed,
    /// By last pull, or by arrival if there was no pull since.
    Pulled,
}

/// How many tags a repository keeps, and which: `5`, or `{ newest: 5, by: pushed }`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// Number of tags; 0 for all.
    pub newest: u32,
    /// What makes a tag newer.
    pub by: KeepOrder,
}

/// The long form of [`Keep`].
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KeepNewest {
    /// Number of tags; 0 for all.
    newest: u32,
    /// What makes a tag newer.
    #[serde(default)]
    by: KeepOrder,
}

impl Serialize for Keep {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.by == KeepOrder::default() {
            return self.newest.serialize(serializer);
        }
        let Self { newest, by } = *self;
        KeepNewest { newest, by }.serialize(serializer)
    }
}

impl JsonSchema for Keep {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Keep".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [generator.subschema_for::<u32>(), generator.subschema_for::<KeepNewest>()]
        })
    }
}

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeepVisitor)
    }
}

struct KeepVisitor;

impl<'de> Visitor<'de> for KeepVisitor {
    type Value = Keep;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number from 0, or `{ newest: 5, by: version }`")
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Keep, E> {
        // A number that is too large for u32 is also above the limit, whose check has the better message.
        Ok(Keep {
            newest: u32::try_from(number).unwrap_or(u32::MAX),
            by: KeepOrder::default(),
        })
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Keep, E> {
        let unexpected = de::Unexpected::Signed(number);
        let number = u64::try_from(number).map_err(|_| E::invalid_value(unexpected, &self))?;
        self.visit_u64(number)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Keep, A::Error> {
        let KeepNewest { newest, by } = KeepNewest::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Keep { newest, by })
    }
}

/// Settings of the local repositories that match a pattern, which is the name.
///
/// What is left out comes from the next wider pattern that matches, and from the defaults where none says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepositorySettings {
    /// Pattern of the repositories.
    pub name: ResourceName,
    /// Who may pull.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = Visibility::default()))]
    pub visibility: Option<Visibility>,
    /// When images are scanned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = ScanMode::default()))]
    pub scan: Option<ScanMode>,
    /// Number of tags that are kept, the newest; 0 for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = Keep::default()))]
    pub keep: Option<Keep>,
    /// What to do with an unauthorised image in a target: one that no decision allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = Unauthorised::default()))]
    pub unauthorised: Option<Unauthorised>,
    /// Whether tags are immutable: they never move to another digest, but may be removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("default" = false))]
    pub immutable: Option<bool>,
}

impl RepositorySettings {
    /// Returns the pattern, which is checked when the resource is read.
    #[must_use]
    pub fn pattern(&self) -> Option<Pattern> {
        self.name.as_str().parse().ok()
    }

    pub(super) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if let Err(error) = self.name.as_str().parse::<Pattern>() {
            faults.push(("name", error.to_string()));
        }
        if self.keep.is_some_and(|keep| keep.newest > MOST_KEPT) {
            faults.push((
                "keep",
                format!("at most {MOST_KEPT} tags can be counted; write `0` to keep all"),
            ));
        }
        faults
    }
}

/// What holds for one repository, from all settings whose pattern matches it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EffectiveSettings {
    /// Who may pull without an account.
    pub visibility: Visibility,
    /// When images are scanned.
    pub scan: ScanMode,
    /// How many tags are kept.
    pub keep: Keep,
    /// What is done about unauthorised images, if it is a target.
    pub unauthorised: Unauthorised,
    /// Whether a tag that names an image never comes to name another one.
    pub immutable: bool,
}

/// Returns the settings for a repository: each from the most specific pattern that sets it, in any order.
#[must_use]
pub fn settings_for<'a>(
    all: impl IntoIterator<Item = &'a RepositorySettings>,
    repository: &Repository,
) -> EffectiveSettings {
    let mut matching: Vec<(&RepositorySettings, Pattern)> = all
        .into_iter()
        .filter_map(|settings| Some((settings, settings.pattern()?)))
        .filter(|(_, pattern)| pattern.matches(repository.as_str()))
        .collect();
    matching.sort_by(|(_, one), (_, other)| {
        Reverse(one.specificity()).cmp(&Reverse(other.specificity()))
    });
    let settings = || matching.iter().map(|(settings, _)| *settings);
    EffectiveSettings {
        visibility: settings().find_map(|s| s.visibility).unwrap_or_default(),
        scan: settings().find_map(|s| s.scan).unwrap_or_default(),
        keep: settings().find_map(|s| s.keep).unwrap_or_default(),
        unauthorised: settings().find_map(|s| s.unauthorised).unwrap_or_default(),
        immutable: settings().find_map(|s| s.immutable).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{Resource, parse_documents};

    fn settings(name: &str, keys: &str) -> RepositorySettings {
        let text = format!("kind: Repository\nname: '{name}'\n{keys}");
        match parse_documents(&text).unwrap().remove(0).resource {
            Resource::Repository(settings) => settings,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_most_specific_pattern_decides_in_any_order() {
        let mut all = [
            settings("hub/**", "keep: 1\n"),
            settings("hub/*", "keep: 2\n"),
            settings("hub/alpine", "keep: 3\n"),
            settings("hub/al*", "keep: 4\n"),
            settings("hub/*e", "keep: 5\n"),
            settings("**", "keep: 6\n"),
        ];
        for _ in 0..2 {
            all.reverse();
            for (repository, keep) in [
                ("hub/alpine", 3),
                ("hub/almost", 4),
                ("hub/cache", 5),
                ("hub/nginx", 2),
                ("hub/team/app", 1),
                ("other/x", 6),
            ] {
                let found = settings_for(&all, &repository.parse().unwrap());
                assert_eq!(found.keep.newest, keep, "{repository}");
            }
        }
    }

    #[test]
    fn what_the_most_specific_pattern_leaves_out_comes_from_wider_ones() {
        let all = [
            settings("hub/*", "keep: 5\nscan: manual\nimmutable: true\n"),
            settings("hub/app", "visibility: public\nimmutable: false\n"),
            settings("**", "keep: 9\nunauthorised: revert\n"),
        ];
        let found = settings_for(&all, &"hub/app".parse().unwrap());
        assert_eq!(
            found,
            EffectiveSettings {
                visibility: Visibility::Public,
                scan: ScanMode::Manual,
                keep: Keep {
                    newest: 5,
                    by: KeepOrder::Version,
                },
                unauthorised: Unauthorised::Revert,
                immutable: false,
            }
        );
    }

    #[test]
    fn a_repository_that_no_pattern_matches_has_the_defaults() {
        let all = [settings("hub/*", "keep: 1\n")];
        let other = settings_for(&all, &"hub/team/app".parse().unwrap());
        assert_eq!(other, EffectiveSettings::default());
    }

    #[test]
    fn a_tag_limit_is_a_number_or_says_which_tags_are_the_newest() {
        for (written, newest, by, stored) in [
            ("5", 5, KeepOrder::Version, "5"),
            ("{ newest: 5 }", 5, KeepOrder::Version, "5"),
            (
                "{ newest: 5, by: pushed }",
                5,
                KeepOrder::Pushed,
                r#"{"newest":5,"by":"pushed"}"#,
            ),
            (
                "{ newest: 5, by: pulled }",
                5,
                KeepOrder::Pulled,
                r#"{"newest":5,"by":"pulled"}"#,
            ),
        ] {
            let read = settings("hub/*", &format!("keep: {written}\n"));
            assert_eq!(read.keep, Some(Keep { newest, by }), "{written}");
            let json = serde_json::to_string(&read).unwrap();
            assert!(json.contains(&format!("\"keep\":{stored}")), "{json}");
            assert_eq!(
                serde_json::from_str::<RepositorySettings>(&json).unwrap(),
                read
            );
        }
        for bad in [
            "ten",
            "-1",
            "{ by: pushed }",
            "{ newest: 5, by: age }",
            "[5]",
        ] {
            let text = format!("kind: Repository\nname: hub/*\nkeep: {bad}\n");
            let problems = parse_documents(&text).unwrap_err();
            assert_eq!((problems.len(), problems[0].line), (1, 3), "{problems:?}");
        }
    }

    #[test]
    fn every_name_of_settings_is_a_pattern() {
        for name in ["*", "**", "***", "a**b", "/", "hub/*/x", "**/*", "-/_*.**"] {
            assert!(settings(name, "").pattern().is_some(), "{name}");
        }
    }
}
