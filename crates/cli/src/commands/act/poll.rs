//! `sluice poll`: queues a poll of a mirror.

use clap::Args;
use sluice_bus::Cause;
use sluice_domain::ResourceName;
use sluice_domain::resources::Kind;
use sluice_events::commands::PollMirror;
use sluice_state::State;

use crate::arguments::connection::Connection;
use crate::output::line;

/// Poll a mirror now.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sluice poll alpine")]
pub(crate) struct Arguments {
    /// Name of the mirror.
    mirror: ResourceName,
}

impl Arguments {
    /// Queues the poll.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let (bus, mirror) = (connection.open().await?, self.mirror);
        let state = State::open(&bus).await?;
        anyhow::ensure!(
            state.has_resource(Kind::Mirror, &mirror).await?,
            "mirror `{mirror}` not found; `sluice get mirrors` lists those that exist"
        );
        let queued = format!("poll queued for mirror {mirror}");
        let command = PollMirror {
            mirror,
            urgent: true,
        };
        bus.command(&command.into(), &Cause::root()).await?;
        line(&queued)
    }
}
