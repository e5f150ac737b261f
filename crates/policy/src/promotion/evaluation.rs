//! What a policy says about an image: the outcome with its reasons, or why it makes no target.

use chrono::{DateTime, Utc};
use sluice_domain::{Class, Classify, InvalidName, Repository, Tag, Target};
use thiserror::Error;

use super::tag_template::InvalidTemplate;

/// The evaluation of an image by a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyEvaluation {
    /// Whether the image is allowed.
    pub outcome: PolicyOutcome,
    /// Where the image goes if allowed.
    pub target: Target,
    /// The tag it gets there.
    pub target_tag: Tag,
    /// Every rule with its outcome, passed ones too.
    pub reasons: Vec<Reason>,
}

/// Whether a policy allows an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyOutcome {
    /// The image may be promoted.
    Allow,
    /// The image may not be promoted.
    Deny,
    /// The image may be promoted from then on, if nothing else changes.
    Wait {
        /// When to evaluate it again.
        until: DateTime<Utc>,
    },
    /// A fact is missing: neither promote nor withdraw.
    Undetermined,
}

/// One rule of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The rule as the policy states it, or `coverage`, `runnable`, `require.platforms`, `soak`.
    pub rule: String,
    /// Whether it holds; `None` where a fact is missing.
    pub passed: Option<bool>,
    /// The values that decided, per platform.
    pub detail: String,
}

/// Why an image cannot be evaluated: the policy makes no valid target for it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The target repository cannot be made from the source's name.
    #[error("policy `{policy}` makes no valid target of repository `{repository}`")]
    Target {
        /// The policy.
        policy: String,
        /// The source repository.
        repository: Repository,
        /// What is wrong with the result.
        source: InvalidName,
    },
    /// The policy's tag template does not parse.
    #[error("policy `{policy}` has a bad tag template")]
    Template {
        /// The policy.
        policy: String,
        /// What is wrong with it.
        source: InvalidTemplate,
    },
    /// The target tag cannot be made from the source's tag.
    #[error("policy `{policy}` makes no valid tag of `{tag}`")]
    TargetTag {
        /// The policy.
        policy: String,
        /// The source tag.
        tag: Tag,
        /// What is wrong with the result.
        source: InvalidName,
    },
}

impl Classify for Error {
    fn class(&self) -> Class {
        Class::Permanent
    }
}
