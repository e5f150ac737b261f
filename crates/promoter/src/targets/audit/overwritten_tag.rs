//! A tag in a remote registry that was promoted and now names an image that someone else pushed.

use sluice_domain::{Digest, Tag, Target};
use sluice_events::facts::ImageUnauthorised;
use sluice_events::wire::state::Decision;
use sluice_state::{State, key};

use crate::error::Error;
use crate::evaluate::decision::{is_settled, occurrence};
use crate::evaluate::evaluated_decision::Evaluation;
use crate::targets::endpoint::TargetEndpoint;
use crate::targets::pending_events::PendingEvents;

/// Returns the image to which someone else moved a tag after this very decision was carried out and published.
///
/// Only the promoter writes into targets of the internal registry; for these the audit finds unauthorised tags.
pub(crate) async fn overwritten_by(
    state: &State,
    evaluation: &Evaluation<'_>,
    endpoint: &TargetEndpoint,
    tag: &Tag,
) -> Result<Option<Digest>, Error> {
    if !endpoint.is_remote() || !evaluation.decision.published {
        return Ok(None);
    }
    let key = key::target_tag(&endpoint.target, tag);
    let is_carried_out = state.tags.get(&key).await?.is_some_and(|entry| {
        is_settled(&entry.value, &evaluation.decision)
            && entry.value.promoted_from == evaluation.provenance().promotion
    });
    if !is_carried_out {
        return Ok(None);
    }
    let head = endpoint.head(tag).await?;
    match head.filter(|head| head.digest != evaluation.subject.digest) {
        // A removal by the promoter was interrupted.
        Some(head)
            if endpoint
                .registry
                .is_tombstone(endpoint.repository(), &head.digest)
                .await? =>
        {
            Ok(None)
        }
        head => Ok(head.map(|head| head.digest)),
    }
}

/// Adds the event of an overwritten tag, and returns the note that keeps it from being published again; `None` if it was
/// published before.
pub(crate) fn report_overwritten(
    decision: &Decision,
    target: &Target,
    tag: &Tag,
    found: &Digest,
    pending_events: &mut PendingEvents,
) -> Option<String> {
    let note = format!(
        "{target}:{tag} was overwritten with {found}; it stays until another image is promoted"
    );
    if decision.note == note {
        return None;
    }
    tracing::warn!(
        registry.host = ?target.registry, image.repository = %target.repository, image.tag = %tag,
        image.digest = %found, expected = decision.digest,
        "a promoted tag was overwritten in a remote registry; it stays until another image is promoted"
    );
    let event = ImageUnauthorised {
        repository: target.repository.clone(),
        tag: Some(tag.clone()),
        digest: found.clone(),
        reverted: false,
        reason: note.clone(),
        pushed_by: String::new(),
        expected: decision.digest.parse().ok(),
        registry: target.registry.clone(),
    };
    pending_events.event(event, &occurrence(decision));
    Some(note)
}
