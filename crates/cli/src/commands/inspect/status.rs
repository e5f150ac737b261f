//! `sluice status`: queues of the stages, mirrors, webhooks, storage, and the last failures.

mod control;

use std::collections::HashSet;

use chrono::Utc;
use clap::Args;
use serde_json::{Value, json};
use sluice_bus::{DeadLetter, StageStatus, StreamUsage};
use sluice_domain::resources::Kind;
use sluice_events::subject;
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Budget, Endpoint, UpstreamPoll};
use sluice_state::{Entry, State};

use super::dead_letters::MAX_DEAD_LETTERS;
use crate::arguments::connection::Connection;
use crate::output::{Format, Section, count, show_sections, size, time};

/// How many dead letters are shown; `dead-letters list` shows all.
const LAST: usize = 5;
/// How many streams are shown, the fullest first.
const FULLEST: usize = 4;
/// The maximum length of a reason, in characters.
const MAX_REASON: usize = 240;

/// Show status: queues, mirrors, failures.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sluice status\n  sluice status -o json")]
pub(crate) struct Arguments {
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Arguments {
    /// Shows the status.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let bus = connection.open().await?;
        let trouble = bus.storage_problem().await?;
        let stages = bus.stage_status().await?;
        let state = State::open(&bus).await?;
        let stopped = bus.stopped_stages(&stages).await?;
        // The state of a mirror or endpoint outlives its resource.
        let mirrors = names(&state, Kind::Mirror).await?;
        let mut polls = state.polls.list("*").await?;
        polls.retain(|entry| mirrors.contains(&entry.value.mirror));
        let webhooks = names(&state, Kind::Webhook).await?;
        let mut endpoints = state.endpoints.list("*").await?;
        endpoints.retain(|entry| webhooks.contains(&entry.value.name));
        let budgets = state.budgets.ledgers.list(">").await?;
        let (active_pause, restored) = state.pause_and_restore().await?;
        let dead_letters = bus.dead_letters(MAX_DEAD_LETTERS).await?;
        let usage = bus.stream_usage().await?;
        let last: Vec<&DeadLetter> = dead_letters.iter().rev().take(LAST).collect();
        let mut sections = vec![
            Section {
                title: "CONTROL",
                header: &["WHAT", "SINCE", ""],
                rows: control::rows(active_pause.as_ref(), restored.as_ref()),
            },
            stopped_section(&stopped),
            stages_section(stages.iter().map(stage).collect()),
            mirrors_section(&polls),
            pulls_section(&budgets),
            Section {
                title: "WEBHOOKS",
                header: &["WEBHOOK", "DELIVERED", "OUTCOME"],
                rows: endpoints
                    .iter()
                    .map(|entry| webhook(&entry.value))
                    .collect(),
            },
            Section {
                title: "DEAD LETTERS",
                header: &["NUMBER", "WHEN", "STAGE", "REASON"],
                rows: dead_letter_rows(dead_letters.len(), &last),
            },
        ];
        sections.push(storage_section(&usage));
        if let Some(trouble) = &trouble {
            sections.insert(0, bus_section(trouble));
        }
        let objects = json!({
            "trouble": trouble,
            "stopped": stopped,
            "stages": stages.iter().map(|s| json!({
                "stage": s.stage, "stream": s.stream, "waiting": s.waiting, "inFlight": s.in_flight, "later": s.later,
                "waitsFor": s.waits_for
            })).collect::<Vec<_>>(),
            "mirrors": polls.iter().map(|poll| json!({
                "mirror": poll.value.mirror, "failures": poll.value.failures, "reason": poll.value.reason,
                "tagsSelected": poll.value.tags_selected
            })).collect::<Vec<_>>(),
            "budgets": budgets.iter().map(|entry| budget(&entry.value)).collect::<Vec<_>>(),
            "webhooks": endpoints.iter().map(|entry| endpoint(&entry.value)).collect::<Vec<_>>(),
            "control": control::object(active_pause.as_ref(), restored.as_ref()),
            "storage": usage.iter().map(|usage| json!({
                "stream": usage.stream, "bytes": usage.bytes, "limitBytes": usage.limit_bytes, "percent": usage.percent(),
                "whenFull": when_full(usage)
            })).collect::<Vec<_>>(),
            "deadLetters": dead_letters.len(),
            "lastDeadLetters": last.iter().map(|letter| json!({
                "number": letter.sequence, "stage": letter.stage, "at": letter.at.map(time), "reason": letter.reason
            })).collect::<Vec<_>>(),
        });
        show_sections(self.output, sections, &objects)
    }
}

/// Returns the names of the resources of a kind.
async fn names(state: &State, kind: Kind) -> anyhow::Result<HashSet<String>> {
    let filter = format!("{}.*", subject::encode(kind.as_str()));
    let entries = state.resources.list(&filter).await?;
    Ok(entries.into_iter().map(|entry| entry.value.name).collect())
}

fn stopped_section(stopped: &[&'static str]) -> Section {
    let advice = "no worker takes its messages; start one, or read in its log what it waits for";
    Section {
        title: "STOPPED",
        header: &["STAGE", ""],
        rows: stopped
            .iter()
            .map(|stage| vec![(*stage).to_owned(), advice.to_owned()])
            .collect(),
    }
}

fn stages_section(rows: Vec<Vec<String>>) -> Section {
    Section {
        title: "STAGES",
        header: &[
            "STAGE",
            "STREAM",
            "WAITING",
            "IN FLIGHT",
            "LATER",
            "WAITS FOR",
        ],
        rows,
    }
}

fn mirrors_section(polls: &[Entry<UpstreamPoll>]) -> Section {
    Section {
        title: "MIRRORS",
        header: &["MIRROR", "POLLED", "OUTCOME"],
        rows: polls.iter().map(|poll| mirror(&poll.value)).collect(),
    }
}

/// Returns the fullest streams; the JSON has all of them.
fn storage_section(usage: &[StreamUsage]) -> Section {
    let limit = |usage: &StreamUsage| match usage.limit_bytes {
        Some(bytes) => size(bytes),
        None => "none".to_owned(),
    };
    let row = |usage: &StreamUsage| {
        vec![
            usage.stream.to_owned(),
            size(usage.bytes),
            limit(usage),
            format!("{} %", usage.percent()),
            when_full(usage).to_owned(),
        ]
    };
    Section {
        title: "STORAGE",
        header: &["STREAM", "USED", "LIMIT", "", "WHEN FULL"],
        rows: usage.iter().take(FULLEST).map(row).collect(),
    }
}

const fn when_full(usage: &StreamUsage) -> &'static str {
    if usage.rejects_when_full {
        "refuses new messages; writers wait"
    } else {
        "drops the oldest messages"
    }
}

fn pulls_section(budgets: &[Entry<Budget>]) -> Section {
    Section {
        title: "UPSTREAM PULLS",
        header: &["REGISTRY", "ACCOUNT", "FREE", "OF", "KEPT", "PAUSED UNTIL"],
        rows: budgets
            .iter()
            .map(|entry| budget_row(&entry.value))
            .collect(),
    }
}

fn budget_row(budget: &Budget) -> Vec<String> {
    let limited = budget.limit > 0;
    let count = |count: u64| limited.then(|| count.to_string());
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        budget.registry.clone(),
        or_dash((!budget.account.is_empty()).then(|| budget.account.clone())),
        or_dash(count(budget.free)),
        or_dash(count(budget.limit)),
        or_dash(count(budget.reserve)),
        or_dash(paused(budget)),
    ]
}

fn budget(budget: &Budget) -> Value {
    let count = |count: u64| (budget.limit > 0).then_some(count);
    json!({
        "registry": budget.registry,
        "account": (!budget.account.is_empty()).then_some(&budget.account),
        "free": count(budget.free), "limit": count(budget.limit), "reserve": budget.reserve,
        "windowSeconds": count(budget.window_seconds), "pausedUntil": paused(budget)
    })
}

/// Returns the end of a pause of pulls.
fn paused(budget: &Budget) -> Option<String> {
    let until = time_from_wire(budget.pulls_paused_until.as_ref())?;
    (until > Utc::now()).then(|| time(until))
}

fn bus_section(trouble: &str) -> Section {
    Section {
        title: "BUS",
        header: &["TROUBLE"],
        rows: vec![vec![trouble.to_owned()]],
    }
}

fn stage(stage: &StageStatus) -> Vec<String> {
    vec![
        stage.stage.to_owned(),
        stage.stream.to_owned(),
        stage.waiting.to_string(),
        stage.in_flight.to_string(),
        stage.later.to_string(),
        short(&stage.waits_for),
    ]
}

fn mirror(poll: &UpstreamPoll) -> Vec<String> {
    let outcome = if poll.failures == 0 {
        count(poll.tags_selected, "tag")
    } else {
        let failures = count(poll.failures, "time");
        format!("failed {failures}: {}", short(&poll.reason))
    };
    let at = time_from_wire(poll.polled_at.as_ref()).map(time);
    vec![poll.mirror.clone(), at.unwrap_or_default(), outcome]
}

/// Tells whether an endpoint has failed since its last success.
fn is_failing(endpoint: &Endpoint) -> bool {
    let failed = time_from_wire(endpoint.last_failure_at.as_ref());
    failed.is_some() && failed > time_from_wire(endpoint.last_success_at.as_ref())
}

fn webhook(endpoint: &Endpoint) -> Vec<String> {
    let outcome = if is_failing(endpoint) {
        let failures = count(endpoint.consecutive_failures, "time");
        format!("failed {failures}: {}", short(&endpoint.last_error))
    } else {
        "ok".to_owned()
    };
    let at = time_from_wire(endpoint.last_success_at.as_ref()).map(time);
    vec![endpoint.name.clone(), at.unwrap_or_default(), outcome]
}

fn endpoint(endpoint: &Endpoint) -> Value {
    json!({
        "webhook": endpoint.name, "failing": is_failing(endpoint), "failures": endpoint.consecutive_failures,
        "deliveredAt": time_from_wire(endpoint.last_success_at.as_ref()).map(time),
        "failedAt": time_from_wire(endpoint.last_failure_at.as_ref()).map(time),
        "lastError": endpoint.last_error,
    })
}

/// Returns the rows of the last dead letters, newest first, and the number of the others.
fn dead_letter_rows(total: usize, last: &[&DeadLetter]) -> Vec<Vec<String>> {
    if last.is_empty() {
        return vec![["none", "", "", ""].map(str::to_owned).into()];
    }
    let mut rows: Vec<_> = last
        .iter()
        .map(|letter| {
            vec![
                letter.sequence.to_string(),
                letter.at.map(time).unwrap_or_default(),
                letter.stage.clone(),
                short(&letter.reason),
            ]
        })
        .collect();
    let more = total.saturating_sub(last.len());
    if more > 0 {
        let hint = format!("and {more} more; `sluice dead-letters list` shows all");
        rows.push(vec![String::new(), String::new(), String::new(), hint]);
    }
    rows
}

/// Shortens a reason to one line.
fn short(reason: &str) -> String {
    let line = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut kept: String = line.chars().take(MAX_REASON).collect();
    if kept.len() < line.len() {
        kept.push('…');
    }
    kept
}
