//! `sluice events`: the event log as JSON lines.

use clap::Args;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sluice_bus::{Bus, Fact};

use crate::arguments::connection::Connection;
use crate::output::{line, time_millis};

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
            line(&fact_json(&fact).to_string())?;
        }
        Ok(())
    }
}

async fn follow(bus: &Bus, subject: &str, from_start: bool) -> anyhow::Result<()> {
    let mut facts = bus.follow(subject, from_start).await?;
    loop {
        tokio::select! {
            fact = facts.next() => match fact {
                Some(fact) => line(&fact_json(&fact?).to_string())?,
                None => anyhow::bail!("the server ended the stream of events"),
            },
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
        }
    }
}

/// Returns an event as a JSON object.
pub(super) fn fact_json(fact: &Fact) -> Value {
    json!({
        "stream": fact.stream,
        "sequence": fact.sequence,
        "at": fact.at.map(time_millis),
        "id": fact.id,
        "causationId": fact.causation,
        "correlationId": fact.correlation,
        "subject": fact.subject,
        "event": fact.event.as_ref().map(sluice_events::Event::name),
        "data": fact.event.as_ref().map(sluice_events::Event::to_json),
    })
}
