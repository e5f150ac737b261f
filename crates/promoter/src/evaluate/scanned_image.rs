//! An image with the verdicts on it, read from the state at the moment of its evaluation.

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, Platform};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{
    Decision, DecisionInput, DecisionOutcome, ImageChild, ImageEntry, TagEntry, UpstreamTag,
    Verdict,
};
use sluice_policy::condition::ImageFacts;
use sluice_policy::promotion::{Candidate, ChildFacts};
use sluice_state::{State, key, source_of};

use super::subject::Subject;
use crate::error::Error;

/// An image with the verdicts on its runnable children.
#[derive(Debug)]
pub(crate) struct ScannedImage {
    /// Every manifest of the image, the top first.
    pub(crate) manifests: Vec<Digest>,
    /// When all of it was scanned last, as far as that is known.
    pub(crate) scanned_at: Option<DateTime<Utc>>,
    /// The keys of the verdicts on it, each with the revision that was read; 0 for a missing verdict.
    pub(crate) verdicts: Vec<(String, u64)>,
    runnable: Vec<(ImageChild, Digest, Option<Verdict>)>,
}

impl ScannedImage {
    /// Reads the verdicts on an image.
    pub(crate) async fn read(
        state: &State,
        digest: &Digest,
        entry: &ImageEntry,
    ) -> Result<Self, Error> {
        let mut image = Self {
            manifests: vec![digest.clone()],
            scanned_at: None,
            verdicts: Vec::new(),
            runnable: Vec::new(),
        };
        for child in &entry.children {
            // A child that is skipped would not be evaluated.
            let child_digest: Digest = child.digest.parse().map_err(|_| Error::Damaged {
                object: format!("the list of manifests of {digest}"),
            })?;
            if child_digest != *digest {
                image.manifests.push(child_digest.clone());
            }
            if !child.attestation {
                let key = key::verdict(&child_digest);
                let verdict = state.verdicts.get(&key).await?;
                let revision = verdict.as_ref().map_or(0, |entry| entry.revision);
                image.verdicts.push((key, revision));
                let verdict = verdict.map(|entry| entry.value);
                image.runnable.push((child.clone(), child_digest, verdict));
            }
        }
        // Of several platforms the one that was scanned first counts; one without a verdict was never scanned.
        let at = |verdict: &Option<Verdict>| time_from_wire(verdict.as_ref()?.scanned_at.as_ref());
        let times = image.runnable.iter().map(|(_, _, verdict)| at(verdict));
        image.scanned_at = times.min().flatten();
        Ok(image)
    }

    /// Says whether every runnable child was scanned, with whatever result.
    pub(crate) fn is_scanned(&self) -> bool {
        self.runnable
            .iter()
            .all(|(_, _, verdict)| verdict.is_some())
    }

    /// Makes the candidate that policies evaluate.
    pub(crate) fn candidate(
        &self,
        subject: &Subject,
        first_seen_at: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Candidate {
        let platforms: Vec<Platform> = self
            .runnable
            .iter()
            .filter_map(|(child, _, _)| child.platform.parse().ok())
            .collect();
        let child = |(child, digest, verdict): &(ImageChild, Digest, Option<Verdict>)| ChildFacts {
            platform: child.platform.parse().ok(),
            digest: digest.clone(),
            verdict: verdict.as_ref().map(Into::into),
            image: ImageFacts {
                created: time_from_wire(child.created_at.as_ref()),
                size_bytes: Some(child.size_bytes),
                labels: (!child.labels_omitted).then(|| child.labels.clone().into_iter().collect()),
                platforms: platforms.clone(),
            },
        };
        Candidate {
            repository: subject.repository.clone(),
            tag: subject.tag.clone(),
            digest: subject.digest.clone(),
            children: self.runnable.iter().map(child).collect(),
            first_seen_at,
            arrived_at: subject.current.as_ref().and_then(arrived_at),
            decided_at: now,
        }
    }

    /// Returns what a decision keeps of the verdicts.
    pub(crate) fn inputs(&self) -> Vec<DecisionInput> {
        let input = |(child, _, verdict): &(ImageChild, Digest, Option<Verdict>)| {
            decision_input(&child.platform, &child.digest, verdict.as_ref())
        };
        self.runnable.iter().map(input).collect()
    }
}

/// Returns what a decision keeps of the verdict on a runnable image.
fn decision_input(platform: &str, digest: &str, verdict: Option<&Verdict>) -> DecisionInput {
    let mut input = DecisionInput {
        platform: platform.to_owned(),
        digest: digest.to_owned(),
        ..Default::default()
    };
    if let Some(verdict) = verdict {
        input.scanner.clone_from(&verdict.scanner);
        input.database_version.clone_from(&verdict.database_version);
        input.status = verdict.status;
        input.counts = verdict.counts;
        input.packages = verdict.packages;
        input.os.clone_from(&verdict.os);
        input.report_key.clone_from(&verdict.report_key);
        input.unmatched.clone_from(&verdict.unmatched);
    }
    input
}

/// Says whether verdicts are still at the revisions that were read.
pub(crate) async fn are_unchanged(
    state: &State,
    verdicts: &[(String, u64)],
) -> Result<bool, sluice_state::Error> {
    for (key, revision) in verdicts {
        let verdict = state.verdicts.get(key).await?;
        if verdict.map_or(0, |verdict| verdict.revision) != *revision {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Says whether a decision that allows an image was made from older verdicts than the stored ones: the event of a newer
/// verdict was lost.
pub(crate) async fn has_outdated_verdicts(
    state: &State,
    decision: &Decision,
) -> Result<bool, Error> {
    if decision.outcome() != DecisionOutcome::Allow || decision.promoted_at.is_none() {
        return Ok(false);
    }
    for input in &decision.inputs {
        let Ok(digest) = input.digest.parse() else {
            continue;
        };
        let verdict = state.verdicts.get(&key::verdict(&digest)).await?;
        let verdict = verdict.as_ref().map(|entry| &entry.value);
        let now = DecisionInput {
            accepted: input.accepted.clone(),
            // A newer database with the same result is no newer verdict.
            database_version: input.database_version.clone(),
            ..decision_input(&input.platform, &input.digest, verdict)
        };
        if now != *input {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns when the digest of a subject was first seen, by our clock.
///
/// An image that was pushed and not mirrored was first seen when it arrived. Where the tag does not name the digest any
/// more, the image was first seen when it was promoted, at the latest.
pub(crate) async fn first_seen(
    state: &State,
    subject: &Subject,
    promoted_at: Option<DateTime<Utc>>,
) -> Result<Option<DateTime<Utc>>, Error> {
    let Some(entry) = &subject.current else {
        return Ok(promoted_at);
    };
    let Ok(mirror) = entry.mirror.parse() else {
        return Ok(arrived_at(entry));
    };
    let upstream = state
        .upstream
        .get(&key::upstream(&mirror, &subject.tag))
        .await?;
    Ok(upstream.and_then(|upstream| seen_at(&upstream.value, source_of(entry))))
}

fn seen_at(upstream: &UpstreamTag, digest: &str) -> Option<DateTime<Utc>> {
    let seen = upstream
        .first_seen
        .iter()
        .find(|seen| seen.digest == digest)?;
    time_from_wire(seen.at.as_ref())
}

fn arrived_at(entry: &TagEntry) -> Option<DateTime<Utc>> {
    time_from_wire(entry.arrived_at.as_ref())
}
