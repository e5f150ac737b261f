//! What is known of an image, read from the state at the moment of judging.

use chrono::{DateTime, Utc};
use sluice_domain::{Digest, Platform, Repository, SeverityCounts, Tag};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{
    DecisionInput, ImageChild, ImageEntry, TagEntry, UpstreamTag, Verdict, VerdictStatus,
};
use sluice_policy::condition::{DtrCounts, ImageFacts, ScanFacts};
use sluice_policy::promotion::{Candidate, ChildFacts, ChildVerdict, Coverage};
use sluice_state::{State, key, source_of};

use crate::handler::Error;
use crate::policies::Policy;

/// An image with the verdicts on its runnable children.
#[derive(Debug)]
pub(crate) struct ScannedImage {
    /// Every manifest of it, the top first.
    pub(crate) manifests: Vec<Digest>,
    /// When a scanner looked at all of it last, as far as that is known.
    pub(crate) scanned_at: Option<DateTime<Utc>>,
    /// The keys of the verdicts on it, each with the revision that was read, 0 where there is none.
    pub(crate) verdicts: Vec<(String, u64)>,
    runnable: Vec<(ImageChild, Digest, Option<Verdict>)>,
}

/// A tag that names, or named, the image.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) repository: Repository,
    pub(crate) tag: Tag,
    pub(crate) digest: Digest,
    /// Its entry, if the tag still names the digest.
    pub(crate) current: Option<TagEntry>,
}

impl Subject {
    /// Returns the key of a policy's decision on it.
    pub(crate) fn key(&self, policy: &Policy) -> String {
        let name = &policy.spec.name;
        key::decision(name, &self.repository, &self.tag, &self.digest)
    }
}

impl ScannedImage {
    /// Reads the verdicts on an image.
    pub(crate) async fn read(
        state: &State,
        digest: &Digest,
        entry: &ImageEntry,
    ) -> Result<Self, Error> {
        let mut known = Self {
            manifests: vec![digest.clone()],
            scanned_at: None,
            verdicts: Vec::new(),
            runnable: Vec::new(),
        };
        for child in &entry.children {
            // A child that is passed over would not be judged.
            let child_digest: Digest = child.digest.parse().map_err(|_| Error::Damaged {
                what: format!("the list of manifests of {digest}"),
            })?;
            if child_digest != *digest {
                known.manifests.push(child_digest.clone());
            }
            if !child.attestation {
                let key = key::verdict(&child_digest);
                let verdict = state.verdicts.get(&key).await?;
                let revision = verdict.as_ref().map_or(0, |entry| entry.revision);
                known.verdicts.push((key, revision));
                let verdict = verdict.map(|entry| entry.value);
                known.runnable.push((child.clone(), child_digest, verdict));
            }
        }
        // Of several platforms the one that was looked at first counts; one without a verdict, as never.
        let at = |verdict: &Option<Verdict>| time_from_wire(verdict.as_ref()?.scanned_at.as_ref());
        let times = known.runnable.iter().map(|(_, _, verdict)| at(verdict));
        known.scanned_at = times.min().flatten();
        Ok(known)
    }

    /// Says whether a scanner has looked at every runnable child, with whatever result.
    pub(crate) fn is_scanned(&self) -> bool {
        self.runnable
            .iter()
            .all(|(_, _, verdict)| verdict.is_some())
    }

    /// Puts together what policies ask about.
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
            verdict: verdict.as_ref().map(child_verdict),
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

    /// Returns what a decision keeps of it.
    pub(crate) fn inputs(&self) -> Vec<DecisionInput> {
        let input = |(child, _, verdict): &(ImageChild, Digest, Option<Verdict>)| {
            decision_input(&child.platform, &child.digest, verdict.as_ref())
        };
        self.runnable.iter().map(input).collect()
    }
}

/// Returns what a decision keeps of a runnable image.
pub(crate) fn decision_input(
    platform: &str,
    digest: &str,
    verdict: Option<&Verdict>,
) -> DecisionInput {
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

/// Says whether verdicts are still those of which the revisions were read.
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

/// Returns when the digest of a subject was first seen, by our clock.
///
/// What was pushed here and not mirrored was first seen when it came. Where the tag does not name the digest any more, it
/// was seen when it was promoted, at the latest.
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

/// Reads a verdict; one that does not say that it covered the image, or has no counts, is none to rely on.
fn child_verdict(verdict: &Verdict) -> ChildVerdict {
    let mut reason = Some(verdict.reason.clone()).filter(|reason| !reason.is_empty());
    let status = match (verdict.status(), &verdict.counts) {
        (VerdictStatus::Covered, Some(_)) => Coverage::Covered,
        (VerdictStatus::Covered, None) => {
            reason = Some("its result has no counts".to_owned());
            Coverage::Failed
        }
        (VerdictStatus::Unsupported, _) => Coverage::Unsupported,
        (VerdictStatus::Failed | VerdictStatus::Unspecified, _) => Coverage::Failed,
    };
    let counts = verdict.counts.unwrap_or_default();
    ChildVerdict {
        status,
        scan: ScanFacts {
            counts: SeverityCounts {
                critical: counts.critical,
                high: counts.high,
                medium: counts.medium,
                low: counts.low,
                unknown: counts.unknown,
            },
            dtr: DtrCounts {
                critical: verdict.dtr_critical,
                major: verdict.dtr_major,
                minor: verdict.dtr_minor,
            },
            fixable: Some(verdict.fixable),
            packages: verdict.packages,
            os: Some(verdict.os.clone()).filter(|os| !os.is_empty()),
            end_of_life: verdict.end_of_life,
            scanned_at: time_from_wire(verdict.scanned_at.as_ref()),
        },
        reason,
        unmatched: verdict.unmatched.iter().cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_that_does_not_say_that_it_covered_the_image_is_none() {
        let counts = Some(sluice_events::wire::events::SeverityCounts::default());
        for (status, counts, expected) in [
            (VerdictStatus::Covered, counts, Coverage::Covered),
            (VerdictStatus::Covered, None, Coverage::Failed),
            (VerdictStatus::Unspecified, counts, Coverage::Failed),
            (VerdictStatus::Unsupported, counts, Coverage::Unsupported),
            (VerdictStatus::Failed, counts, Coverage::Failed),
        ] {
            let verdict = Verdict {
                status: status.into(),
                counts,
                ..Default::default()
            };
            assert_eq!(child_verdict(&verdict).status, expected, "{status:?}");
        }
    }
}
