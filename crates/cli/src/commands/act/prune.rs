//! `sluice prune`: queues a run of retention.

use clap::Args;
use sluice_bus::Cause;
use sluice_domain::resources::Kind;
use sluice_domain::{Repository, ResourceName};
use sluice_events::commands::PruneRepositories;
use sluice_state::State;

use crate::arguments::connection::Connection;
use crate::output::line;

/// Prune now: by the tag limit, or by a pruning policy.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sluice prune hub/alpine\n  sluice prune --policy old-builds")]
pub(crate) struct Arguments {
    /// Prune only this repository.
    repository: Option<Repository>,
    /// Pruning policy to run instead of the tag limit.
    #[arg(long)]
    policy: Option<ResourceName>,
}

impl Arguments {
    /// Queues a run of retention: by the tag limit of one or all repositories, or by a policy.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let bus = connection.open().await?;
        let Self { repository, policy } = self;
        if let Some(policy) = &policy {
            let state = State::open(&bus).await?;
            anyhow::ensure!(
                state.has_resource(Kind::PruningPolicy, policy).await?,
                "pruningpolicy `{policy}` not found; `sluice get pruningpolicies` lists those that exist"
            );
        }
        let rule = policy
            .as_ref()
            .map_or_else(String::new, |policy| format!(" by policy {policy}"));
        let scope = repository
            .as_ref()
            .map_or_else(|| "all repositories".to_owned(), ToString::to_string);
        let command = PruneRepositories { policy, repository };
        bus.command(&command.into(), &Cause::root()).await?;
        line(&format!(
            "prune queued for {scope}{rule}; `sluice events --subject 'sluice.v1.prune.>'` shows what was deleted"
        ))
    }
}
