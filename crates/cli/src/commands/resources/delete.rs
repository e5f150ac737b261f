//! `sluice delete`: removes a resource.

use clap::Args;
use sluice_domain::ResourceName;
use sluice_domain::resources::Kind;
use sluice_state::State;

use super::get::noun;
use crate::arguments::connection::Connection;
use crate::output::line;

/// The author of the deletion, as far as the connection identifies one.
const ACTOR: &str = "cli";

/// Delete a resource.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sluice delete mirror alpine")]
pub(crate) struct Arguments {
    /// Kind of the resource, as in `mirror`.
    kind: Kind,
    /// Name of the resource.
    name: ResourceName,
}

impl Arguments {
    /// Deletes the resource.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let bus = connection.open().await?;
        let (state, Self { kind, name }) = (State::open(&bus).await?, self);
        let removed = state.remove(&bus, kind, &name, ACTOR).await?;
        anyhow::ensure!(removed, "{} `{name}` not found", noun(kind));
        line(&format!("{kind} {name} deleted"))
    }
}
