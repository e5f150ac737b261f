//! Promotion policies: what an image must be to reach which repository.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::DurationText;
use crate::name::pattern::Pattern;
use crate::name::platform::Platform;
use crate::name::target_template::TargetTemplate;
use crate::name::{PackageKind, ResourceName};
use crate::resources::condition::{Condition, enabled};

/// Says which images of which repositories are promoted, and under which name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromotionPolicy {
    /// Name of the resource.
    pub name: ResourceName,
    /// Repositories whose images the policy evaluates.
    pub from: Pattern,
    /// Target repository, with the placeholders `{name}`, `{org}` and `{repository}` of the source.
    pub to: TargetTemplate,
    /// Tag in the target, with the template keywords of Docker Trusted Registry.
    #[serde(default = "same_tag")]
    pub tag: String,
    /// Condition in CEL; see [CONDITIONS.md](CONDITIONS.md).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<Condition>,
    /// Condition as rules of Docker Trusted Registry, instead of `when`; all must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Whether findings without a severity forbid promotion; if it is left out they do, unless there is no condition or
    /// the condition names `scan.unknown`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<UnknownFindings>,
    /// Exceptions from the rule that the scanner must cover everything in the image.
    #[serde(default, skip_serializing_if = "CoverageRule::is_strict")]
    pub coverage: CoverageRule,
    /// Time since the digest was first seen upstream that must pass before promotion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak: Option<DurationText>,
    /// What an image must have besides meeting the condition.
    #[serde(default)]
    pub require: Require,
    /// What to do with a promoted image that no longer passes.
    #[serde(default)]
    pub recall: Recall,
    /// Allow another policy to write the same tags of the target from other sources; both policies must set it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shares_target: bool,
    /// `false` promotes nothing more.
    #[serde(default = "enabled")]
    pub enabled: bool,
}

/// One rule in the form of Docker Trusted Registry; all rules of a policy must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Attribute.
    pub field: String,
    /// Comparison.
    pub operator: String,
    /// Values to compare with.
    pub values: Vec<String>,
}

/// What must be present in an image besides what the condition asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Require {
    /// Platforms that the image must have.
    #[serde(default)]
    pub platforms: Vec<Platform>,
}

/// What of an image the scanner may leave uncovered; nothing by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CoverageRule {
    /// Kinds of packages that the scanner may list without matching them against vulnerabilities.
    #[serde(default)]
    pub allow: BTreeSet<PackageKind>,
}

impl CoverageRule {
    /// Returns whether everything must be covered.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.allow.is_empty()
    }
}

/// Whether unrated findings forbid promotion, unless the condition speaks of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownFindings {
    /// Findings without a severity forbid promotion.
    Deny,
    /// Findings without a severity are ignored.
    Allow,
}

/// What happens to a promoted image that no longer passes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Recall {
    /// Flag it and publish `image.flagged`.
    #[default]
    Flag,
    /// Remove it from the target and publish `image.withdrawn`.
    Withdraw,
    /// Do nothing.
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
