//! Judges whether an image may be promoted, and says why or why not.
//!
//! Every runnable child must pass. What no scanner covered never passes, whatever the condition says.

mod reasons;
mod time;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_domain::resources::{PromotionPolicy, UnknownFindings};
use sluice_domain::{Class, Classify, Digest, InvalidName, Platform, Repository, Tag, Target};
use thiserror::Error;

use crate::condition::{Compiled, Facts, ImageFacts, Outcome as Evaluated, ScanFacts, Scope};
use crate::rules;
use crate::template::{InvalidTemplate, TagTemplate};

pub use time::{changes_at, depends_on_time};

/// The condition that every `when` implies unless it speaks of unrated findings itself.
const NO_UNKNOWN: &str = "scan.unknown == 0";

/// Why an image cannot be judged: the policy names no valid target for it.
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

/// An image that a policy is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The source repository.
    pub repository: Repository,
    /// The source tag.
    pub tag: Tag,
    /// The digest that the tag names.
    pub digest: Digest,
    /// The runnable images: the one image, or the index's children without attestations.
    pub children: Vec<ChildFacts>,
    /// When this digest was first seen upstream; the soak time counts from here.
    pub first_seen_at: Option<DateTime<Utc>>,
    /// When the tag came to name this digest here; `updated_at` in conditions.
    pub arrived_at: Option<DateTime<Utc>>,
    /// The time of the decision, which templates and conditions use.
    pub decided_at: DateTime<Utc>,
}

/// One runnable image of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildFacts {
    /// Its platform, where the index or its configuration states one.
    pub platform: Option<Platform>,
    /// Its digest.
    pub digest: Digest,
    /// The scanner's verdict, if there is one.
    pub verdict: Option<ChildVerdict>,
    /// What the image says of itself.
    pub image: ImageFacts,
}

/// What a scanner made of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildVerdict {
    /// Whether the scanner could look into it.
    pub status: Coverage,
    /// What it found.
    pub scan: ScanFacts,
    /// Why it could not look, in the scanner's words.
    pub reason: Option<String>,
    /// The kinds of packages that it listed and did not match against vulnerabilities.
    pub unmatched: BTreeSet<String>,
}

/// Whether a scanner could look into an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coverage {
    /// It did; with zero packages it still saw nothing.
    Covered,
    /// It does not understand the content.
    Unsupported,
    /// It failed.
    Failed,
}

impl ChildFacts {
    /// Returns the findings if the scanner saw anything at all.
    fn usable_scan(&self) -> Option<&ScanFacts> {
        self.verdict
            .as_ref()
            .filter(|verdict| verdict.status == Coverage::Covered && verdict.scan.packages > 0)
            .map(|verdict| &verdict.scan)
    }

    fn unmatched(&self) -> impl Iterator<Item = &str> {
        let verdict = self.verdict.iter();
        verdict.flat_map(|verdict| verdict.unmatched.iter().map(String::as_str))
    }
}

/// Returns those of some kinds of packages that a policy accepts although nothing matched them.
pub fn accepted<'a>(
    policy: &PromotionPolicy,
    unmatched: impl Iterator<Item = &'a str>,
) -> BTreeSet<&'a str> {
    let allow = &policy.coverage.allow;
    unmatched
        .filter(|kind| allow.iter().any(|allowed| allowed.as_str() == *kind))
        .collect()
}

/// How many compiled conditions a thread keeps.
const KEPT: usize = 64;

/// What a policy says about an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The answer.
    pub outcome: Outcome,
    /// Where the image goes if allowed.
    pub target: Target,
    /// The tag it gets there.
    pub target_tag: Tag,
    /// Every rule with its outcome, passed ones too.
    pub reasons: Vec<Reason>,
}

/// The answer of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The image may be promoted.
    Allow,
    /// It may not.
    Deny,
    /// It may from then on, if nothing else changes.
    Wait {
        /// When to judge again.
        until: DateTime<Utc>,
    },
    /// It cannot be told: neither promote nor withdraw.
    Undetermined,
}

/// One rule of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The rule as the policy states it, or `coverage`, `runnable`, `require.platforms`, `soak`.
    pub rule: String,
    /// Whether it holds; `None` where that cannot be told.
    pub passed: Option<bool>,
    /// The values that decided, per platform.
    pub detail: String,
}

/// Compiles the condition of a policy, from either of its two forms; `None` for a policy without one.
///
/// # Errors
/// Every problem in it.
pub fn compile(policy: &PromotionPolicy) -> Result<Option<Compiled>, Vec<String>> {
    let text = condition_of(policy)?;
    text.map(|text| compile_text(policy, &text)).transpose()
}

fn compile_text(policy: &PromotionPolicy, text: &str) -> Result<Compiled, Vec<String>> {
    match policy.when {
        Some(_) => Compiled::new(text, Scope::Promotion),
        None => Compiled::of_rules(text, Scope::Promotion),
    }
}

fn condition_of(policy: &PromotionPolicy) -> Result<Option<String>, Vec<String>> {
    match &policy.when {
        Some(condition) => Ok(Some(condition.0.clone())),
        None if policy.rules.is_empty() => Ok(None),
        None => rules::compile(&policy.rules).map(Some),
    }
}

/// Compiles the condition of a policy, or finds it compiled: policies are read anew for every judgement, and compiling
/// takes longer than judging.
fn compiled(policy: &PromotionPolicy) -> Result<Option<Rc<Compiled>>, Vec<String>> {
    thread_local! {
        static COMPILED: RefCell<HashMap<String, Rc<Compiled>>> = RefCell::default();
    }
    let Some(text) = condition_of(policy)? else {
        return Ok(None);
    };
    if let Some(known) = COMPILED.with_borrow(|compiled| compiled.get(&text).cloned()) {
        return Ok(Some(known));
    }
    let new = Rc::new(compile_text(policy, &text)?);
    COMPILED.with_borrow_mut(|compiled| {
        if compiled.len() >= KEPT {
            compiled.clear();
        }
        compiled.insert(text, new.clone());
    });
    Ok(Some(new))
}

/// Judges an image by an enabled policy whose `from` matches its repository.
///
/// # Errors
/// The policy names no valid target for this image.
pub fn judge(policy: &PromotionPolicy, candidate: &Candidate) -> Result<Judgement, Error> {
    let target = policy
        .to
        .render(&candidate.repository)
        .map_err(|source| Error::Target {
            policy: policy.name.to_string(),
            repository: candidate.repository.clone(),
            source,
        })?;
    let template: TagTemplate = policy.tag.parse().map_err(|source| Error::Template {
        policy: policy.name.to_string(),
        source,
    })?;
    let target_tag = template
        .render(&candidate.tag, candidate.decided_at)
        .map_err(|source| Error::TargetTag {
            policy: policy.name.to_string(),
            tag: candidate.tag.clone(),
            source,
        })?;
    let (outcome, reasons) = decide_outcome(policy, candidate);
    Ok(Judgement {
        outcome,
        target,
        target_tag,
        reasons,
    })
}

/// Collects every reason, then decides: a failed rule denies, an open one leaves it undetermined, and only then may it wait.
fn decide_outcome(policy: &PromotionPolicy, candidate: &Candidate) -> (Outcome, Vec<Reason>) {
    let mut reasons = vec![reasons::runnable(candidate)];
    let coverage = |child| reasons::coverage(policy, child);
    reasons.extend(candidate.children.iter().map(coverage));
    reasons.extend(reasons::accepted(policy, candidate));
    reasons.extend(reasons::platforms(&policy.require.platforms, candidate));
    reasons.extend(condition_reasons(policy, candidate));
    let wait = soak(policy, candidate);
    reasons.extend(wait.iter().map(|(_, reason)| reason.clone()));
    let outcome = if reasons
        .iter()
        .any(|reason| reason.passed == Some(false) && reason.rule != reasons::SOAK)
    {
        Outcome::Deny
    } else if reasons.iter().any(|reason| reason.passed.is_none()) {
        Outcome::Undetermined
    } else {
        match wait {
            Some((Some(until), _)) => Outcome::Wait { until },
            _ => Outcome::Allow,
        }
    };
    (outcome, reasons)
}

fn condition_reasons(policy: &PromotionPolicy, candidate: &Candidate) -> Vec<Reason> {
    let no_unknown = || reasons::no_unknown(NO_UNKNOWN, policy.unknown.is_none(), candidate);
    let compiled = match compiled(policy) {
        Ok(None) if policy.unknown == Some(UnknownFindings::Deny) => return vec![no_unknown()],
        Ok(None) => return Vec::new(),
        Ok(Some(compiled)) => compiled,
        Err(problems) => {
            return vec![Reason {
                rule: "when".to_owned(),
                passed: None,
                detail: format!("the condition does not compile: {}", problems.join("; ")),
            }];
        }
    };
    let mut found = reasons::condition(&compiled, &evaluate(&compiled, candidate));
    let speaks_of_them = compiled.names("scan.unknown");
    if policy.unknown != Some(UnknownFindings::Allow) && !speaks_of_them {
        found.push(no_unknown());
    }
    found
}

fn evaluate<'c>(compiled: &Compiled, candidate: &'c Candidate) -> Vec<(&'c ChildFacts, Evaluated)> {
    let evaluate = |child: &'c ChildFacts| {
        let facts = Facts {
            tag: candidate.tag.as_str(),
            repository: candidate.repository.as_str(),
            platform: child.platform.as_ref(),
            scan: child.usable_scan(),
            image: &child.image,
            updated_at: candidate.arrived_at,
            now: candidate.decided_at,
        };
        (child, compiled.evaluate(&facts))
    };
    candidate.children.iter().map(evaluate).collect()
}

/// Returns when the soak time ends, if it has not, and the reason that says so.
fn soak(
    policy: &PromotionPolicy,
    candidate: &Candidate,
) -> Option<(Option<DateTime<Utc>>, Reason)> {
    let wanted = policy.soak?;
    let reason = |passed, detail| Reason {
        rule: reasons::SOAK.to_owned(),
        passed,
        detail,
    };
    let Some(first_seen_at) = candidate.first_seen_at else {
        return Some((
            None,
            reason(
                None,
                "when this digest was first seen is not known".to_owned(),
            ),
        ));
    };
    let ends_at = TimeDelta::from_std(wanted.duration())
        .ok()
        .and_then(|soak| first_seen_at.checked_add_signed(soak))
        .unwrap_or(DateTime::<Utc>::MAX_UTC);
    let seen = reasons::time(first_seen_at);
    Some(if candidate.decided_at < ends_at {
        let detail = format!(
            "first seen {seen}, {wanted} are over at {}",
            reasons::time(ends_at)
        );
        (Some(ends_at), reason(Some(false), detail))
    } else {
        (
            None,
            reason(
                Some(true),
                format!("first seen {seen}, more than {wanted} ago"),
            ),
        )
    })
}

#[cfg(test)]
mod tests;
