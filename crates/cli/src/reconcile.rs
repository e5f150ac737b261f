//! `reconcile`: stages search for missing work, and say what they found.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sluice_bus::topology::{MIRROR_WORKER, STAGES, Stage};
use sluice_bus::{Bus, Cause};
use sluice_events::wire::state::Reconciliation;
use sluice_state::State;
use sluice_state::reconcile::{self, reason};
use tokio::time::Instant;

use crate::output::{Format, show};

/// Reads the name of a stage.
pub(crate) fn stage(name: &str) -> Result<&'static Stage, String> {
    let known = STAGES.into_iter().find(|stage| stage.name == name);
    known.ok_or_else(|| {
        let names = STAGES.map(|stage| stage.name).join(", ");
        format!("unknown stage; the stages are {names}")
    })
}

/// Asks stages to search, all where none is named, and shows what they found; or the mirror worker for an audit.
pub(crate) async fn reconcile(
    bus: &Bus,
    mut stages: Vec<&'static Stage>,
    audit: bool,
    limit: Duration,
    format: Format,
) -> anyhow::Result<()> {
    let reason = if audit { reason::AUDIT } else { reason::ASKED };
    if audit {
        stages.push(&MIRROR_WORKER);
    } else if stages.is_empty() {
        stages.extend(STAGES);
    }
    let state = State::open(bus).await?;
    // From before they are asked for, so that the end of none is missed.
    let mut written = state.reconciliations.watch_writes().await?;
    let mut searches = Vec::new();
    for stage in stages {
        let command = reconcile::command(stage, reason).into();
        let asked = bus.command(&command, &Cause::root()).await?;
        searches.push((stage.name, asked.id.to_string()));
    }
    let until = Instant::now() + limit;
    let mut found = BTreeMap::new();
    while !searches.iter().all(|(_, run)| found.contains_key(run)) {
        let Ok(next) = tokio::time::timeout_at(until, written.next()).await else {
            break;
        };
        let entry = next.context("the searches cannot be followed any more; ask again")??;
        found.insert(entry.value.run.clone(), entry.value);
    }
    let ended: Vec<_> = searches
        .into_iter()
        .map(|(stage, run)| (stage, found.remove(&run)))
        .collect();
    let rows = ended
        .iter()
        .map(|(stage, found)| row(stage, found.as_ref()));
    let objects = ended
        .iter()
        .map(|(stage, found)| object(stage, found.as_ref()));
    show(
        format,
        &["STAGE", "LOOKED AT", "MISSING"],
        rows.collect(),
        &Value::Array(objects.collect()),
    )?;
    let unfinished: Vec<_> = ended
        .iter()
        .filter(|(_, found)| found.is_none())
        .map(|(stage, _)| *stage)
        .collect();
    anyhow::ensure!(
        unfinished.is_empty(),
        "not searched within {} seconds: {}; `sluice status` shows whether they run",
        limit.as_secs(),
        unfinished.join(", ")
    );
    Ok(())
}

fn row(stage: &str, found: Option<&Reconciliation>) -> Vec<String> {
    let number = |of: fn(&Reconciliation) -> u64| {
        found.map_or_else(|| "-".to_owned(), |found| of(found).to_string())
    };
    vec![
        stage.to_owned(),
        number(|found| found.looked_at),
        number(|found| found.found),
    ]
}

fn object(stage: &str, found: Option<&Reconciliation>) -> Value {
    json!({
        "stage": stage,
        "ended": found.is_some(),
        "lookedAt": found.map(|found| found.looked_at),
        "found": found.map(|found| found.found),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_read_by_its_name_and_an_unknown_one_is_told_with_those_that_there_are() {
        assert_eq!(stage("promoter").unwrap().name, "promoter");
        assert!(stage("promotor").unwrap_err().contains("mirror-worker, "));
    }
}
