//! `sluice resume`: ends a pause of promotion and deletion.

use clap::Args;
use sluice_state::State;

use crate::arguments::connection::Connection;
use crate::output::line;

/// Resume promotion and deletion.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sluice resume")]
pub(crate) struct Arguments {
    /// Also end the pause after a restore before the promoter has compared the targets.
    #[arg(long)]
    unreconciled: bool,
}

impl Arguments {
    /// Ends the pause.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let state = State::open(&connection.open().await?).await?;
        state.resume(self.unreconciled).await?;
        match state.pause_and_restore().await?.0 {
            None => line("resumed"),
            Some(pause) => anyhow::bail!(
                "still paused: {}; the pause ends by itself, or with `--unreconciled`",
                pause.reason
            ),
        }
    }
}
