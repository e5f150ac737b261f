//! `sluice events`: the event log as JSON lines.

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sluice_bus::{Bus, Fact};

use crate::output::{line, time_millis};

/// Shows the events of the log.
pub(crate) async fn show(bus: &Bus, subject: &str) -> anyhow::Result<()> {
    for fact in bus.facts(subject).await? {
        line(&fact_json(&fact).to_string())?;
    }
    Ok(())
}

/// Shows new events until it is interrupted.
pub(crate) async fn follow(bus: &Bus, subject: &str, from_start: bool) -> anyhow::Result<()> {
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
pub(crate) fn fact_json(fact: &Fact) -> Value {
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
