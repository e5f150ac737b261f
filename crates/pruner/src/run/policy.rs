//! The pruning policy of a run, with its compiled condition.

use sluice_domain::resources::PruningPolicy;
use sluice_domain::{Repository, ResourceName};
use sluice_policy::condition::{CompiledCondition, Scope};
use sluice_state::Snapshot;

use crate::error::Error;

/// Returns a policy if it is enabled and selects the repository.
pub(crate) fn enabled_policy<'a>(
    catalog: &'a Snapshot,
    name: &ResourceName,
    repository: &Repository,
) -> Option<&'a PruningPolicy> {
    catalog.pruning.get(name).filter(|policy| {
        policy.enabled
            && policy
                .repositories
                .iter()
                .any(|pattern| pattern.matches(repository.as_str()))
    })
}

/// Compiles the condition of a policy.
pub(super) fn compile_condition(policy: &PruningPolicy) -> Result<CompiledCondition, Error> {
    CompiledCondition::new(&policy.delete.0, Scope::Pruning).map_err(|problems| Error::Condition {
        policy: policy.name.clone(),
        problems: problems.join("; "),
    })
}
