//! `sluice pause`: stops promotion and deletion.

use clap::Args;
use sluice_state::State;

use crate::arguments::connection::Connection;
use crate::output::line;

/// The author of a pause.
const ACTOR: &str = "sluice";

/// Pause promotion and deletion; mirroring and scanning continue.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sluice pause 'registry maintenance until noon'")]
pub(crate) struct Arguments {
    /// Reason, which `sluice status` shows.
    reason: String,
}

impl Arguments {
    /// Pauses promotion and deletion.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let state = State::open(&connection.open().await?).await?;
        state.pause(ACTOR, &self.reason).await?;
        line(
            "promotion and deletion are paused; work in progress is completed; `sluice resume` ends the pause",
        )
    }
}
