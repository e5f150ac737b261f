//! Conflicts between resources and those that are applied; `sluice apply` and the API refuse the same ones.

use sluice_domain::resources::{Document, Problem};
use sluice_policy::check;
use sluice_state::{Error, State};

/// Returns what is wrong with documents beside the resources that are applied.
pub async fn find_conflicts(state: &State, documents: &[Document]) -> Result<Vec<Problem>, Error> {
    let mut problems = check::remote_targets(documents, &state.registries().await?);
    problems.extend(check::applied_targets(
        documents,
        &state.applied().await?,
        &state.promotion_targets().await?,
    ));
    Ok(problems)
}
