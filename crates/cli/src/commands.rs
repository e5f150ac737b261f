//! Everything that is one call to the bus and one table.

use std::path::PathBuf;
use std::time::Duration;

use chrono::SecondsFormat;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sluice_bus::{Bus, Cause, Fact, ProvisionOptions};
use sluice_domain::ResourceName;
use sluice_domain::resources::Kind;
use sluice_events::commands::PollMirror;
use sluice_events::time_from_wire;
use sluice_gateway::keys::Keys;
use sluice_state::{State, key};

use crate::output::{Format, line, show};

/// The most dead letters that are listed or retried at once.
const MAX_LETTERS: usize = 10_000;

/// Makes what is missing in a folder of keys.
pub(crate) fn keys(folder: PathBuf) -> anyhow::Result<()> {
    for file in Keys::at(folder).create()? {
        line(&format!("{} made", file.display()))?;
    }
    line("every key and secret is there")
}

/// Creates the topology.
pub(crate) async fn provision(
    bus: &Bus,
    replicas: usize,
    window_seconds: u64,
) -> anyhow::Result<()> {
    let options = ProvisionOptions {
        replicas,
        duplicate_window: Duration::from_secs(window_seconds),
    };
    bus.provision(options).await?;
    line("streams, consumers and buckets are as this version needs them")
}

/// Shows backlogs, mirrors and dead letters.
pub(crate) async fn status(bus: &Bus, format: Format) -> anyhow::Result<()> {
    let stages = bus.stage_status().await?;
    let state = State::open(bus).await?;
    let polls = state.polls.list("*").await?;
    let dead = bus.dead_letters(MAX_LETTERS).await?.len();
    let mut rows: Vec<Vec<String>> = stages
        .iter()
        .map(|s| {
            vec![
                format!("stage {}", s.stage),
                s.stream.to_owned(),
                format!(
                    "{} waiting, {} in flight, {} later",
                    s.waiting, s.in_flight, s.later
                ),
            ]
        })
        .collect();
    for poll in &polls {
        let poll = &poll.value;
        let at = time_from_wire(poll.polled_at.as_ref())
            .map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true));
        let outcome = if poll.failures == 0 {
            format!("{} tags", poll.tags_selected)
        } else {
            format!("failed {} times: {}", poll.failures, poll.reason)
        };
        rows.push(vec![
            format!("mirror {}", poll.mirror),
            at.unwrap_or_default(),
            outcome,
        ]);
    }
    rows.push(vec![
        "dead letters".to_owned(),
        String::new(),
        dead.to_string(),
    ]);
    let objects = json!({
        "stages": stages.iter().map(|s| json!({
            "stage": s.stage, "stream": s.stream, "waiting": s.waiting, "inFlight": s.in_flight, "later": s.later
        })).collect::<Vec<_>>(),
        "mirrors": polls.iter().map(|poll| json!({
            "mirror": poll.value.mirror, "failures": poll.value.failures, "reason": poll.value.reason,
            "tagsSelected": poll.value.tags_selected
        })).collect::<Vec<_>>(),
        "deadLetters": dead,
    });
    show(format, &["WHAT", "WHERE OR WHEN", "HOW"], rows, &objects)
}

/// Shows the log.
pub(crate) async fn events(bus: &Bus, subject: &str) -> anyhow::Result<()> {
    for fact in bus.facts(subject).await? {
        line(&fact_json(&fact).to_string())?;
    }
    Ok(())
}

/// Follows the log until it is interrupted.
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

pub(crate) fn fact_json(fact: &Fact) -> Value {
    json!({
        "sequence": fact.sequence,
        "at": fact.at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true)),
        "id": fact.id,
        "causationId": fact.causation,
        "correlationId": fact.correlation,
        "subject": fact.subject,
        "event": fact.event.as_ref().map(sluice_events::Event::name),
        "data": fact.event.as_ref().map(sluice_events::Event::to_json),
    })
}

/// Asks the poller for a poll.
pub(crate) async fn poll(bus: &Bus, mirror: ResourceName) -> anyhow::Result<()> {
    let state = State::open(bus).await?;
    let known = state
        .resources
        .get(&key::resource(Kind::Mirror.as_str(), &mirror))
        .await?;
    anyhow::ensure!(
        known.is_some(),
        "there is no Mirror `{mirror}`; `sluice get mirrors` lists them"
    );
    bus.command(
        &PollMirror {
            mirror: mirror.clone(),
        }
        .into(),
        &Cause::root(),
    )
    .await?;
    line(&format!("asked for a poll of {mirror}"))
}

/// Lists dead letters.
pub(crate) async fn dead_letters(bus: &Bus, format: Format) -> anyhow::Result<()> {
    let letters = bus.dead_letters(MAX_LETTERS).await?;
    let rows = letters
        .iter()
        .map(|letter| {
            vec![
                letter.sequence.to_string(),
                letter.stage.clone(),
                letter.attempts.clone(),
                letter.subject.clone(),
                letter.reason.clone(),
            ]
        })
        .collect();
    let objects = letters
        .iter()
        .map(|letter| {
            json!({
                "number": letter.sequence, "stage": letter.stage, "type": letter.type_name, "subject": letter.subject,
                "attempts": letter.attempts, "reason": letter.reason,
            })
        })
        .collect();
    show(
        format,
        &["NUMBER", "STAGE", "ATTEMPTS", "SUBJECT", "REASON"],
        rows,
        &Value::Array(objects),
    )
}

/// Drives one dead letter again, or all.
pub(crate) async fn retry(bus: &Bus, number: Option<u64>) -> anyhow::Result<()> {
    let numbers = match number {
        Some(number) => vec![number],
        None => bus
            .dead_letters(MAX_LETTERS)
            .await?
            .into_iter()
            .map(|letter| letter.sequence)
            .collect(),
    };
    for number in &numbers {
        bus.redrive(*number).await?;
    }
    line(&format!(
        "{} dead letters were given to their stages again",
        numbers.len()
    ))
}
