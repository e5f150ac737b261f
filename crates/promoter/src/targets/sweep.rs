//! Deletes by digest the manifests of an image that is removed from a target, unless another image there needs them.

pub(crate) mod sweep_plan;

use sluice_domain::Digest;
use sluice_events::EventId;
use sluice_service::crash;

use self::sweep_plan::SweepPlan;
use crate::error::Error;
use crate::evaluate::decision::evaluation_command;
use crate::targets::attachments::remove::{attachments_of, remove_attachments};
use crate::targets::endpoint::Targets;
use crate::targets::pending_events::PendingEvents;

/// Deletes the manifests of an image that no other permitted image of the target reaches (invariants 1 and 5).
///
/// A tag or manifest that cannot be listed or read ends the sweep before anything is deleted.
pub(crate) async fn sweep(
    targets: &Targets,
    plan: &SweepPlan<'_>,
    pending_events: &mut PendingEvents,
) -> Result<(), Error> {
    targets.state.ensure_not_paused().await?;
    let attachments = attachments_of(&targets.state, plan).await?;
    let mut unneeded = plan.unneeded(targets).await?;
    let mut removed = unneeded.clone();
    if !attachments.is_empty() {
        remove_attachments(targets, plan, &unneeded, attachments).await?;
        // Listed again, so that the deletion follows the listing at once.
        unneeded = plan.unneeded(targets).await?;
        removed.extend(unneeded.iter().cloned());
    }
    // Without a deletion there is nothing to repair, and an image that asks for its own evaluation would do so for ever.
    if removed.is_empty() {
        return Ok(());
    }
    for manifest in &unneeded {
        let (registry, repository) = (&plan.endpoint.registry, plan.endpoint.repository());
        registry.delete_manifest(repository, manifest).await?;
        crash::point("promoter.manifest_deleted");
        tracing::info!(image.repository = %plan.endpoint.target, image.digest = %manifest, "deleted");
    }
    // An image with a manifest in common may have been allowed since the listing, and its copy may have found that manifest
    // in the target. So it is evaluated again, which repairs it.
    for entry in plan.permitted(targets).await? {
        let Ok(digest) = entry.value.digest.parse::<Digest>() else {
            continue;
        };
        let Some(command) = evaluation_command(&entry.value) else {
            continue;
        };
        let children = targets.children(&digest, plan.endpoint).await?;
        if removed.contains(&digest) || !children.is_disjoint(&removed) {
            // Each sweep has its own message id: a sweep that was delayed while another one did the same may have deleted
            // manifests after the evaluation that the other one asked for.
            pending_events.command(command, EventId::random().to_string());
        }
    }
    Ok(())
}
