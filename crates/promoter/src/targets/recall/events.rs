//! The events of refusals: denied, flagged, withdrawn.

use std::collections::BTreeSet;

use sluice_domain::{Tag, Target};
use sluice_events::facts::{ImageFlagged, ImagePromotionDenied, ImageWithdrawn, Reason};

use crate::error::Error;
use crate::evaluate::decision::{decided_at, occurrence};
use crate::evaluate::evaluated_decision::Evaluation;
use crate::targets::pending_events::PendingEvents;

/// Adds why an image was refused, or which rules are undetermined.
pub(crate) fn add_denial(
    evaluation: &Evaluation<'_>,
    pending_events: &mut PendingEvents,
) -> Result<(), Error> {
    let (target, _) = evaluation.target()?;
    let reasons = evaluation.decision.reasons.iter().map(|reason| Reason {
        rule: reason.rule.clone(),
        detail: reason.detail.clone(),
        passed: reason.passed,
        undetermined: reason.undetermined,
    });
    pending_events.event(
        ImagePromotionDenied {
            policy: evaluation.name.clone(),
            repository: evaluation.subject.repository.clone(),
            tag: evaluation.subject.tag.clone(),
            digest: evaluation.subject.digest.clone(),
            target: target.repository,
            reasons: reasons.collect(),
            decided_at: decided_at(&evaluation.decision),
            registry: target.registry,
        },
        &occurrence(&evaluation.decision),
    );
    Ok(())
}

/// Adds that an image was flagged at a tag of a target.
pub(super) fn add_flag(
    evaluation: &Evaluation<'_>,
    (target, tag): (Target, Tag),
    reason: &str,
    pending_events: &mut PendingEvents,
) {
    tracing::warn!(image.repository = %target, image.tag = %tag, reason, "flagged");
    pending_events.event(
        ImageFlagged {
            policy: evaluation.name.clone(),
            repository: target.repository,
            tag,
            digest: evaluation.subject.digest.clone(),
            reason: reason.to_owned(),
            registry: target.registry,
        },
        &occurrence(&evaluation.decision),
    );
}

/// Adds that an image was withdrawn from tags of a target.
pub(super) fn add_withdrawals(
    evaluation: &Evaluation<'_>,
    target: &Target,
    tags: BTreeSet<Tag>,
    reason: &str,
    pending_events: &mut PendingEvents,
) {
    for tag in tags {
        tracing::warn!(image.repository = %target, image.tag = %tag, reason, "withdrawn");
        pending_events.event(
            ImageWithdrawn {
                policy: evaluation.name.clone(),
                repository: target.repository.clone(),
                tag,
                digest: evaluation.subject.digest.clone(),
                reason: reason.to_owned(),
                registry: target.registry.clone(),
            },
            &occurrence(&evaluation.decision),
        );
    }
}
