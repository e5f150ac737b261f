//! Promotion policies: what an image must be to reach which repository.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Condition, enabled};
use crate::duration::DurationText;
use crate::name::{InvalidName, Repository, ResourceName};
use crate::pattern::Pattern;
use crate::platform::Platform;

/// Says which images of which repositories are promoted, and under which name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromotionPolicy {
    /// Its name.
    pub name: ResourceName,
    /// The repositories whose images it judges.
    pub from: Pattern,
    /// Where they are promoted to.
    pub to: TargetTemplate,
    /// The tag there, with DTR's template keywords.
    #[serde(default = "same_tag")]
    pub tag: String,
    /// The condition, in CEL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
    /// The condition in DTR's form, instead of `when`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Whether findings that nobody rated forbid promotion.
    #[serde(default)]
    pub unknown: UnknownFindings,
    /// How long ago the digest must have been seen first upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak: Option<DurationText>,
    /// What must also be there.
    #[serde(default)]
    pub require: Require,
    /// What happens when a promoted image no longer passes.
    #[serde(default)]
    pub recall: Recall,
    /// Off promotes nothing more.
    #[serde(default = "enabled")]
    pub enabled: bool,
}

/// One rule in the form of Docker Trusted Registry; all rules of a policy must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The attribute, as in `vulnerability_critical`.
    pub field: String,
    /// The comparison, as in `eq`.
    pub operator: String,
    /// What it is compared with.
    pub values: Vec<String>,
}

/// What must be present in an image besides what the condition asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Require {
    /// Platforms that an image must have.
    #[serde(default)]
    pub platforms: Vec<Platform>,
}

/// Whether unrated findings forbid promotion when the condition does not speak of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownFindings {
    /// They forbid it.
    #[default]
    Deny,
    /// They do not matter.
    Allow,
}

/// What happens to a promoted image that no longer passes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recall {
    /// It is marked, with an event.
    #[default]
    Flag,
    /// Nothing.
    Ignore,
}

/// A target repository with `{org}`, `{name}` and `{repository}` of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TargetTemplate {
    text: String,
    shape: Pattern,
}

impl TargetTemplate {
    /// Returns the target for a source repository.
    ///
    /// # Errors
    /// A result that is not a repository name, as with `{org}` of a repository without one.
    pub fn render(&self, source: &Repository) -> Result<Repository, InvalidName> {
        self.text
            .replace("{org}", source.organisation().unwrap_or_default())
            .replace("{name}", source.name())
            .replace("{repository}", source.as_str())
            .parse()
    }

    /// Says whether some source could be promoted into this repository.
    #[must_use]
    pub fn could_produce(&self, repository: &Repository) -> bool {
        self.shape.matches(repository.as_str())
    }
}

impl FromStr for TargetTemplate {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || {
            InvalidName::new(
                "target",
                text,
                "expected a repository with `{name}`, `{org}` or `{repository}` of the source, as in `official/{name}`",
            )
        };
        let filled = |with: &str| {
            text.replace("{org}", with)
                .replace("{name}", with)
                .replace("{repository}", with)
        };
        filled("x").parse::<Repository>().map_err(|_| invalid())?;
        Ok(Self {
            text: text.to_owned(),
            shape: filled("**").parse().map_err(|_| invalid())?,
        })
    }
}

impl TryFrom<String> for TargetTemplate {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TargetTemplate> for String {
    fn from(template: TargetTemplate) -> Self {
        template.text
    }
}

impl fmt::Display for TargetTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn same_tag() -> String {
    "%n".to_owned()
}

impl PromotionPolicy {
    pub(super) fn faults(&self) -> Vec<(&'static str, String)> {
        if self.when.is_some() && !self.rules.is_empty() {
            return vec![(
                "rules",
                "write the condition either as `when` or as `rules`, not as both".to_owned(),
            )];
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_made_of_the_source() {
        let template: TargetTemplate = "official/{name}".parse().unwrap();
        let source: Repository = "hub/alpine".parse().unwrap();
        let target = template.render(&source).unwrap();
        assert_eq!(target.as_str(), "official/alpine");
        assert!(template.could_produce(&target));
        assert!(!template.could_produce(&source));
        for bad in [
            "",
            "official/{nme}",
            "Official/{name}",
            "official/",
            "/{name}",
        ] {
            assert!(bad.parse::<TargetTemplate>().is_err(), "{bad}");
        }
    }
}
