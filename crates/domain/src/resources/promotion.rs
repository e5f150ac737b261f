//! Promotion policies: what an image must be to reach which repository.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Condition, TargetTemplate, enabled};
use crate::duration::DurationText;
use crate::name::{PackageKind, ResourceName};
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
    /// Whether findings that nobody rated forbid promotion. Unless stated, they do where there is a condition and it does
    /// not speak of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<UnknownFindings>,
    /// What the scanner may leave uncovered.
    #[serde(default, skip_serializing_if = "CoverageRule::is_strict")]
    pub coverage: CoverageRule,
    /// How long ago the digest must have been seen first upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak: Option<DurationText>,
    /// What must also be there.
    #[serde(default)]
    pub require: Require,
    /// What happens when a promoted image no longer passes.
    #[serde(default)]
    pub recall: Recall,
    /// Whether another policy may write the same tags of the target from other sources; both have to say so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shares_target: bool,
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

/// What of an image the scanner may leave uncovered; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoverageRule {
    /// The kinds of packages that the scanner may list without matching them against vulnerabilities.
    #[serde(default)]
    pub allow: BTreeSet<PackageKind>,
}

impl CoverageRule {
    /// Says whether everything must be covered.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.allow.is_empty()
    }
}

/// Whether unrated findings forbid promotion, unless the condition speaks of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownFindings {
    /// They forbid it.
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
    /// It is removed from the target, with an event.
    Withdraw,
    /// Nothing.
    Ignore,
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
