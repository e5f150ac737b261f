//! Which image a tag of a target may name: the one that a decision allows there.

use sluice_domain::{Digest, Repository, Tag};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Decision, DecisionOutcome, TagEntry};
use sluice_state::{State, key, live_claim};

use crate::error::Error;
use crate::evaluate::decision::{is_promoted_to, key_of_holder};
use crate::settings::STAGE;

/// Says why a tag may not name a digest; `None` if it may, or while the tag is being changed.
pub(super) async fn unauthorised_reason(
    state: &State,
    repository: &Repository,
    tag: &Tag,
    digest: &Digest,
    entry: Option<&TagEntry>,
) -> Result<Option<String>, Error> {
    if entry.and_then(live_claim).is_some() {
        return Ok(None);
    }
    Ok(missing_decision(state, repository, tag, digest, entry).await?)
}

/// Says why no decision allows a digest at a tag; `None` if one does.
pub(super) async fn missing_decision(
    state: &State,
    repository: &Repository,
    tag: &Tag,
    digest: &Digest,
    entry: Option<&TagEntry>,
) -> Result<Option<String>, sluice_state::Error> {
    let names_it = entry.is_some_and(|entry| entry.digest == digest.as_str());
    if tag.attached_to().is_some() {
        // Only the promoter writes attachments, those of promoted images.
        let is_ours = entry.is_some_and(|entry| names_it && entry.arrived_by == STAGE);
        return Ok((!is_ours).then(|| "it is no attachment of a promoted image".to_owned()));
    }
    let holder = holder(state, repository, entry).await?;
    if names_it && holder.is_some() {
        return Ok(None);
    }
    // Its promotion may be under way, or another source or policy may have promoted it.
    let claimed = entry.and_then(|entry| entry.claim.as_ref());
    let begun = claimed.is_some_and(|claim| claim.digest == digest.as_str());
    let mut older = false;
    for other in state.decisions.list(&key::decisions_about(digest)).await? {
        let other = other.value;
        if !is_promoted_to(&other, repository.as_str(), tag.as_str()) {
            continue;
        }
        let promoted = |decision: &Decision| time_from_wire(decision.promoted_at.as_ref());
        let newer = holder.as_ref().is_some_and(|holder| {
            holder.outcome() == DecisionOutcome::Allow && promoted(holder) > promoted(&other)
        });
        if begun || !newer {
            return Ok(None);
        }
        older = true;
    }
    Ok(Some(match holder {
        Some(holder) if older => format!(
            "it was allowed once, but policy `{}` has promoted {} there since",
            holder.policy, holder.digest
        ),
        Some(holder) => format!(
            "no decision allows it; policy `{}` promoted {} there",
            holder.policy, holder.digest
        ),
        None if names_it => "the decision that promoted it is not known".to_owned(),
        None => "no decision allows it".to_owned(),
    }))
}

/// Returns the decision by which a target's tag names what its entry says, if the decision still leads there.
async fn holder(
    state: &State,
    repository: &Repository,
    entry: Option<&TagEntry>,
) -> Result<Option<Decision>, sluice_state::Error> {
    let Some(key) = entry.and_then(key_of_holder) else {
        return Ok(None);
    };
    let decision = state.decisions.get(&key).await?;
    let tag = entry.map_or("", |entry| entry.tag.as_str());
    let decision = decision.map(|decision| decision.value);
    Ok(decision.filter(|decision| is_promoted_to(decision, repository.as_str(), tag)))
}

/// Returns what a tag should name by its entry and the decision of that.
pub(super) async fn expected_digest(
    state: &State,
    repository: &Repository,
    tag: &Tag,
) -> Result<Option<Digest>, Error> {
    let entry = state.tags.get(&key::tag(repository, tag)).await?;
    let entry = entry.map(|entry| entry.value);
    Ok(expected_by_entry(state, repository, entry.as_ref()).await?)
}

/// Returns what a tag with this entry should name.
pub(super) async fn expected_by_entry(
    state: &State,
    repository: &Repository,
    entry: Option<&TagEntry>,
) -> Result<Option<Digest>, sluice_state::Error> {
    let holder = holder(state, repository, entry).await?;
    // An image that is refused and not flagged is about to be withdrawn.
    let holder = holder
        .filter(|holder| holder.outcome() != DecisionOutcome::Deny || !holder.flagged.is_empty());
    Ok(holder.and_then(|holder| holder.digest.parse().ok()))
}
