//! Copies the attachments of promoted images: signatures, attestations, SBOMs (invariant 1).
//!
//! They are copied after the image, and whenever more of them arrive; they are removed with it. None of them holds up the
//! image. They are not scanned, so only what cannot be unpacked enters a target: signatures, attestations and bills of
//! materials of known kinds, each read to its end (`Client::admissible`), and of a referrers list what refers to the image
//! itself.

pub(crate) mod missing;
pub(crate) mod remove;

use sluice_domain::{Class, Classify as _, Digest, Tag};
use sluice_events::wire::state::TagEntry;
use sluice_registry::{AdmittedAttachment, CopyOptions};
use sluice_state::{
    Freshness, IfUnchanged, MergedIndex, Precondition, State, TagChange, TagChangeOutcome,
    find_attachments, key, merge_index, update_image,
};

use self::missing::{is_handled, settled_digest};
use crate::error::Error;
use crate::evaluate::evaluated_decision::Evaluation;
use crate::targets::endpoint::{TargetEndpoint, Targets};

/// The longest stored reason why an attachment stays out, in characters.
const MAX_REFUSAL: usize = 2_000;

/// An attachment of an image, under a tag of its own.
struct Attachment<'a> {
    tag: &'a Tag,
    digest: &'a Digest,
    /// The entry of that tag in the target.
    there: Option<&'a TagEntry>,
}

/// Copies the attachments of a promoted image after it; one that cannot be copied now is tried again every hour.
pub(crate) async fn attach<T: Precondition>(
    targets: &Targets,
    evaluation: &Evaluation<'_>,
    endpoint: &TargetEndpoint,
    precondition: &T,
) -> Result<(), Error> {
    let source = &evaluation.subject.repository;
    let manifests = evaluation.manifests().iter().cloned().collect();
    for (tag, entry) in find_attachments(&targets.state, source.as_str(), &manifests).await? {
        let Some(digest) = settled_digest(&entry) else {
            continue;
        };
        let key = key::target_tag(&endpoint.target, &tag);
        let there = targets.state.tags.get(&key).await?.map(|entry| entry.value);
        let is_noted = there
            .as_ref()
            .is_some_and(|there| is_handled(there, &digest));
        let is_refused = there
            .as_ref()
            .is_some_and(|there| there.refused == digest.as_str());
        let copied = async {
            if is_refused || is_noted && endpoint.head(&tag).await?.is_some() {
                return Ok(true);
            }
            if precondition.freshness().await? == Freshness::Superseded {
                return Ok(false);
            }
            let attachment = Attachment {
                tag: &tag,
                digest: &digest,
                there: there.as_ref(),
            };
            copy_attachment(targets, evaluation, endpoint, precondition, &attachment).await?;
            Ok(true)
        };
        match copied.await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(Error::Registry(error) | Error::State(sluice_state::Error::Registry(error))) => {
                tracing::warn!(%error, image.repository = %endpoint.target, image.tag = %tag, "an attachment of a promoted image was not copied");
                if matches!(error.class(), Class::Permanent) {
                    let reason = error.to_string();
                    refuse(&targets.state, endpoint, &tag, &digest, &reason).await?;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn copy_attachment<T: Precondition>(
    targets: &Targets,
    evaluation: &Evaluation<'_>,
    endpoint: &TargetEndpoint,
    precondition: &T,
    attachment: &Attachment<'_>,
) -> Result<(), Error> {
    let (source, repository) = (&evaluation.subject.repository, endpoint.repository());
    let Attachment { tag, digest, there } = attachment;
    let (top, left_out) = match targets
        .registry
        .admit_attachment(source, tag, digest)
        .await?
    {
        AdmittedAttachment::Whole(top) => (top, String::new()),
        AdmittedAttachment::Filtered { index, left_out } => (index, left_out),
        AdmittedAttachment::Refused { reason } => {
            return refuse(&targets.state, endpoint, tag, digest, &reason).await;
        }
    };
    let options = CopyOptions {
        root: Some(top),
        ..CopyOptions::default()
    };
    let top = targets
        .copy_from(source, digest, endpoint, &options)
        .await?;
    let joined = merge_index(&endpoint.registry, repository, tag, *there, top).await?;
    let Some(MergedIndex { top, before }) = joined else {
        let reason = "someone else pushed another attachment under this tag, which stays";
        return refuse(&targets.state, endpoint, tag, digest, reason).await;
    };
    let listed = targets
        .contents
        .read(&endpoint.registry, repository, &top.digest);
    update_image(&targets.state, &top.digest, &listed.await?).await?;
    let mut provenance = evaluation.provenance();
    provenance.subset.source = Some((*digest).clone()).filter(|digest| *digest != top.digest);
    let change = TagChange {
        repository,
        tag,
        wanted: Some(&top),
        provenance,
        precondition: &IfUnchanged {
            precondition,
            registry: &endpoint.registry,
            repository,
            tag,
            before: before.as_ref(),
            after: &top.digest,
        },
    };
    if let TagChangeOutcome::Done { .. } = endpoint.tags.apply(&change).await? {
        tracing::info!(image.repository = %endpoint.target, image.tag = %tag, image.digest = %top.digest, "copied an attachment of a promoted image");
    }
    if left_out.is_empty() && there.is_none_or(|there| there.refusal.is_empty()) {
        return Ok(());
    }
    note_refusal(&targets.state, endpoint, tag, &left_out, |_| {}).await
}

/// Notes that an attachment stays out of a target, so that it is not tried again.
async fn refuse(
    state: &State,
    endpoint: &TargetEndpoint,
    tag: &Tag,
    digest: &Digest,
    reason: &str,
) -> Result<(), Error> {
    let note = |entry: &mut TagEntry| entry.refused = digest.to_string();
    note_refusal(state, endpoint, tag, reason, note).await
}

/// Logs why an attachment, or part of it, stays out of a target, and keeps that in the tag's entry.
async fn note_refusal<F: FnOnce(&mut TagEntry) + Send>(
    state: &State,
    endpoint: &TargetEndpoint,
    tag: &Tag,
    reason: &str,
    note: F,
) -> Result<(), Error> {
    let key = key::target_tag(&endpoint.target, tag);
    let entry = state.tags.get(&key).await?;
    let (mut entry, revision) = entry.map_or_else(Default::default, |entry| {
        (entry.value, Some(entry.revision))
    });
    let before = entry.clone();
    entry.repository = endpoint.target.stored();
    entry.tag = tag.to_string();
    entry.refusal = reason.chars().take(MAX_REFUSAL).collect();
    note(&mut entry);
    if entry == before {
        return Ok(());
    }
    if !reason.is_empty() {
        tracing::warn!(image.repository = %endpoint.target, image.tag = %tag, reason, "an attachment stays out of the target");
    }
    match state.tags.write(&key, &entry, revision).await {
        Err(error) if !error.is_conflict() => Err(error.into()),
        // The tag is being changed, and the next evaluation tries again.
        _ => Ok(()),
    }
}
