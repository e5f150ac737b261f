//! Promotion policies with their revisions, read anew for every judgement.
//!
//! A catalogue that follows a watch may be a moment behind on one replica; a decision made with a policy that is gone
//! would then stand until somebody looks again.

use sluice_domain::Repository;
use sluice_domain::resources::{Kind, PromotionPolicy, Resource};
use sluice_events::subject::token;
use sluice_events::wire::state::TagEntry;
use sluice_state::{Error, State};

/// A policy as it is applied now.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) spec: PromotionPolicy,
    pub(crate) revision: u64,
}

impl Policy {
    /// Says whether it judges images of a repository.
    pub(crate) fn judges(&self, repository: &Repository) -> bool {
        self.spec.enabled && self.spec.from.matches(repository.as_str())
    }

    /// Says whether it brought this tag itself: with a wide `from` it would promote its own results for ever.
    pub(crate) fn brought(&self, entry: &TagEntry) -> bool {
        entry
            .promoted_from
            .as_ref()
            .is_some_and(|from| from.policy == self.spec.name.as_str())
    }
}

/// Reads the policies that are on.
pub(crate) async fn read(state: &State) -> Result<Vec<Policy>, Error> {
    let filter = format!("{}.*", token(Kind::PromotionPolicy.as_str()));
    let mut policies = Vec::new();
    for entry in state.resources.list(&filter).await? {
        match Resource::from_json(Kind::PromotionPolicy, &entry.value.json) {
            Ok(Resource::PromotionPolicy(spec)) if spec.enabled => policies.push(Policy {
                spec,
                revision: entry.revision,
            }),
            Ok(_) => {}
            // A newer version applied it; what is not understood promotes nothing.
            Err(error) => {
                tracing::error!(policy = entry.value.name, %error, "a policy cannot be read; update this service");
            }
        }
    }
    Ok(policies)
}
