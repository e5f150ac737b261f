//! `sluice reconcile`: has stages find and queue missing work, and shows the numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use sluice_bus::Cause;
use sluice_bus::topology::{MIRROR_WORKER, STAGES, Stage};
use sluice_events::wire::state::Reconciliation;
use sluice_state::State;
use sluice_state::reconcile::{self, reason};
use tokio::time::Instant;

use crate::arguments::connection::Connection;
use crate::output::{Format, show};

/// Reconcile from stored state: find missing work and queue it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sluice reconcile\n  sluice reconcile promoter\n  sluice reconcile --audit"
)]
pub(crate) struct Arguments {
    /// Stages, as in `promoter` [default: all].
    #[arg(value_parser = stage)]
    stages: Vec<&'static Stage>,
    /// Also compare the registry with the state, and mirror again what is missing there.
    #[arg(long, conflicts_with = "stages")]
    audit: bool,
    /// Seconds to wait for the stages.
    #[arg(long, default_value_t = 60)]
    timeout_seconds: u64,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Arguments {
    /// Reconciles some stages, or all, and shows the results; an audit is done by the mirror worker.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let bus = connection.open().await?;
        let (mut stages, mut reason) = (self.stages, reason::ASKED);
        if self.audit {
            reason = reason::AUDIT;
            stages.push(&MIRROR_WORKER);
        } else if stages.is_empty() {
            stages.extend(STAGES);
        }
        let state = State::open(&bus).await?;
        // Watched before the commands are sent, so that no result is missed.
        let mut written = state.reconciliations.watch_writes().await?;
        let mut runs = Vec::new();
        for stage in stages {
            let command = reconcile::command(stage, reason).into();
            let sent = bus.command(&command, &Cause::root()).await?;
            runs.push((stage.name, sent.id.to_string()));
        }
        let until = Instant::now() + Duration::from_secs(self.timeout_seconds);
        let mut results = BTreeMap::new();
        while !runs.iter().all(|(_, run)| results.contains_key(run)) {
            let Ok(next) = tokio::time::timeout_at(until, written.next()).await else {
                break;
            };
            let entry = next.context("the results are not received any more; try again")??;
            results.insert(entry.value.run.clone(), entry.value);
        }
        let (mut rows, mut objects, mut unfinished) = (Vec::new(), Vec::new(), Vec::new());
        for (stage, run) in runs {
            let result = results.get(&run);
            rows.push(row(stage, result));
            objects.push(object(stage, result));
            if result.is_none() {
                unfinished.push(stage);
            }
        }
        let header = ["STAGE", "LOOKED AT", "MISSING"];
        show(self.output, &header, rows, &Value::Array(objects))?;
        anyhow::ensure!(
            unfinished.is_empty(),
            "not reconciled within {} seconds: {}; `sluice status` shows whether they run",
            self.timeout_seconds,
            unfinished.join(", ")
        );
        Ok(())
    }
}

/// Parses the name of a stage.
fn stage(name: &str) -> Result<&'static Stage, String> {
    let found = STAGES.into_iter().find(|stage| stage.name == name);
    found.ok_or_else(|| {
        let names = STAGES.map(|stage| stage.name).join(", ");
        format!("unknown stage; the stages are {names}")
    })
}

fn row(stage: &str, result: Option<&Reconciliation>) -> Vec<String> {
    let number = |of: fn(&Reconciliation) -> u64| {
        result.map_or_else(|| "-".to_owned(), |result| of(result).to_string())
    };
    vec![
        stage.to_owned(),
        number(|result| result.looked_at),
        number(|result| result.found),
    ]
}

fn object(stage: &str, result: Option<&Reconciliation>) -> Value {
    json!({
        "stage": stage,
        "ended": result.is_some(),
        "lookedAt": result.map(|result| result.looked_at),
        "found": result.map(|result| result.found),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_stage_is_refused_with_the_names_of_all_stages() {
        assert_eq!(stage("promoter").unwrap().name, "promoter");
        assert!(stage("promotor").unwrap_err().contains("mirror-worker, "));
    }
}
