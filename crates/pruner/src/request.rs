//! Requests for a retention run in one repository.

use sluice_bus::Outcome;
use sluice_domain::{Repository, ResourceName};
use sluice_events::EventId;
use sluice_events::commands::PruneRepositories;

/// Adds the command for a run in one repository, which is published once per cause.
pub(crate) fn request_run(
    outcome: Outcome,
    policy: Option<&ResourceName>,
    repository: &Repository,
    occurrence: &str,
) -> Outcome {
    let command = PruneRepositories {
        policy: policy.cloned(),
        repository: Some(repository.clone()),
    };
    let name = policy.map(ToString::to_string).unwrap_or_default();
    let id = EventId::of(
        "sluice.events.v1.PruneRepositories",
        &format!("{name}|{repository}"),
        occurrence,
    );
    outcome.command(command, id, id.to_string())
}
