//! `sluice events`: the event log as JSON lines.

use futures_util::StreamExt as _;
use sluice_bus::{Bus, FollowFrom};

use crate::output::line;

/// Shows the events of the log.
pub(crate) async fn show(bus: &Bus, subject: &str) -> anyhow::Result<()> {
    for fact in bus.facts(subject).await? {
        line(&fact.to_json().to_string())?;
    }
    Ok(())
}

/// Shows new events until it is interrupted.
pub(crate) async fn follow(bus: &Bus, subject: &str, from_start: bool) -> anyhow::Result<()> {
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
