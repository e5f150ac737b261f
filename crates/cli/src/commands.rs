//! Everything that is one call to the bus and one table.

use std::path::PathBuf;

use anyhow::Context as _;
use chrono::SecondsFormat;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sluice_bus::{Bus, Cause, Fact, ProvisionOptions};
use sluice_domain::resources::Kind;
use sluice_domain::{Repository, ResourceName};
use sluice_events::commands::{PollMirror, PruneRepositories, ScanImage};
use sluice_gateway::keys::Keys;
use sluice_registry::ImageReference;
use sluice_state::{State, key};

use crate::output::{Format, count, line, show};

/// The most dead letters that are listed or retried at once.
pub(crate) const MAX_LETTERS: usize = 10_000;

/// Makes what is missing in a folder of keys.
pub(crate) fn keys(folder: PathBuf) -> anyhow::Result<()> {
    for file in Keys::at(folder).create()? {
        line(&format!("{} created", file.display()))?;
    }
    line("all keys and passwords exist")
}

/// Creates the topology.
pub(crate) async fn provision(bus: &Bus, options: ProvisionOptions) -> anyhow::Result<()> {
    bus.provision(options).await?;
    line("NATS is up to date")
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
        "stream": fact.stream,
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
        "mirror `{mirror}` not found; `sluice get mirrors` lists those that exist"
    );
    bus.command(
        &PollMirror {
            mirror: mirror.clone(),
            urgent: true,
        }
        .into(),
        &Cause::root(),
    )
    .await?;
    line(&format!("poll queued for mirror {mirror}"))
}

/// Asks the pruner for retention: the tag limit of a repository or of all, or a policy.
pub(crate) async fn prune(
    bus: &Bus,
    repository: Option<Repository>,
    policy: Option<ResourceName>,
) -> anyhow::Result<()> {
    if let Some(policy) = &policy {
        let key = key::resource(Kind::PruningPolicy.as_str(), policy);
        anyhow::ensure!(
            State::open(bus).await?.resources.get(&key).await?.is_some(),
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

/// Asks the scanner adapter to scan what a tag points to, or a digest.
pub(crate) async fn scan(bus: &Bus, image: ImageReference) -> anyhow::Result<()> {
    let ImageReference {
        repository,
        tag,
        digest,
    } = image;
    let digest = match (&tag, digest) {
        (_, Some(digest)) => digest,
        (None, None) => anyhow::bail!("name a tag or a digest, as in `{repository}:1.0`"),
        (Some(tag), None) => {
            let entry = State::open(bus)
                .await?
                .tags
                .get(&key::tag(&repository, tag))
                .await?;
            let held = entry.filter(|entry| !entry.value.digest.is_empty());
            let held = held.with_context(|| format!("`{repository}:{tag}` not found"))?;
            held.value.digest.parse()?
        }
    };
    line(&format!("scan queued for {repository}@{digest}"))?;
    let command = ScanImage {
        repository,
        tag,
        digest,
    };
    bus.command(&command.into(), &Cause::root()).await?;
    Ok(())
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
        "{} queued again",
        count(numbers.len(), "dead letter")
    ))
}
