//! `sluice events`: the event log as JSON lines.

use clap::Args;
use futures_util::StreamExt as _;
use sluice_bus::{Bus, FollowFrom};

use crate::arguments::connection::Connection;
use crate::output::line;

/// Show events, one JSON object a line.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sluice events --follow\n  sluice events --subject 'sluice.v1.tag.mirrored.>'"
)]
pub(crate) struct Arguments {
    /// Wait for new events instead of showing those of the log.
    #[arg(short, long)]
    follow: bool,
    /// With `--follow`, show the events of the log first.
    #[arg(long, requires = "follow")]
    from_start: bool,
    /// Show only subjects that match, as in `sluice.v1.tag.mirrored.>`.
    #[arg(long, default_value = sluice_events::subject::FACTS)]
    subject: String,
}

impl Arguments {
    /// Shows the events of the log, or new ones until it is interrupted.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let bus = connection.open().await?;
        if self.follow {
            return follow(&bus, &self.subject, self.from_start).await;
        }
        for fact in bus.facts(&self.subject).await? {
            line(&fact.to_json().to_string())?;
        }
        Ok(())
    }
}

async fn follow(bus: &Bus, subject: &str, from_start: bool) -> anyhow::Result<()> {
    let from = if from_start {
        FollowFrom::Start
    } else {
        FollowFrom::Now
    };
    let mut facts = bus.follow(subject, &from).await?;
    loop {
        tokio::select! {
            fact = facts.next() => match fact {
                Some(fact) => line(&fact?.to_json().to_string())?,
                None => anyhow::bail!("the server ended the stream of events"),
            },
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
        }
    }
}
