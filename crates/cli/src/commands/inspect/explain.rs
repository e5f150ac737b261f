//! `sluice explain`: the history of an image from the log and the state, and the rules that decided.

mod location;
pub(super) mod tag_status;
mod timeline;
mod traces;
mod upstream;

use std::collections::BTreeSet;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use sluice_bus::Fact;
use sluice_domain::{Tag, Target};
use sluice_events::wire::state::{Decision, TagEntry};
use sluice_state::{State, key};
use sluice_telemetry::context::TraceUrl;

use self::location::{ExplainedImage, Location};
use self::tag_status::TagStatus;
use self::traces::Traces;
use self::upstream::Upstream;
use crate::arguments::connection::Connection;
use crate::output::{Format, Section, show_sections};

/// Explain the history of an image: discovered, mirrored, scanned, promoted, or why not.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sluice explain hub/alpine:3.20")]
pub(crate) struct Arguments {
    /// Image, as in `hub/alpine:3.20`, or in a remote target as in `registry.example/team/alpine:3.20`.
    image: ExplainedImage,
    /// URL of a trace in the tracing UI, as in `https://jaeger.example/trace/{trace}`, to show a link to each.
    #[arg(long, value_name = "URL", env = "SLUICE_TRACE_URL")]
    trace_url: Option<TraceUrl>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Arguments {
    /// Shows the events of a tag, oldest first, its verdicts and decisions, and where it is promoted.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let (bus, image) = (connection.open().await?, &self.image);
        let tag = image.tag.as_ref();
        let tag = tag.context("name the tag, as in `hub/alpine:3.20`")?;
        let state = State::open(&bus).await?;
        let explained = resolve(&state, &image.target, tag).await?;
        let entry = entry(&state, &explained).await?;
        let source = source(&state, &explained, entry.as_ref()).await?;
        let mut locations = BTreeSet::from([explained.clone(), source.clone()]);
        let decisions = decisions(&state, &source).await?;
        for decision in &decisions {
            let target = Target::from_stored(&decision.target);
            if let (Ok(target), Ok(tag)) = (target, decision.target_tag.parse()) {
                locations.insert((target, tag));
            }
        }
        let digests: BTreeSet<String> = decisions
            .iter()
            .map(|decision| decision.digest.clone())
            .chain(entry.iter().map(|entry| entry.digest.clone()))
            .collect();
        let facts = timeline::read(&bus, &locations, &digests).await?;
        anyhow::ensure!(
            entry.is_some() || !facts.is_empty() || !decisions.is_empty(),
            "`{}:{tag}` not found; `sluice get mirrors` shows what is mirrored",
            explained.0
        );
        let at_source = self::entry(&state, &source).await?;
        let status = TagStatus::read(&state, at_source.as_ref(), decisions).await?;
        let mut rows: Vec<Vec<String>> = facts
            .iter()
            .map(|fact| timeline::row(fact, &explained))
            .collect();
        rows.extend(entry.iter().map(now));
        rows.extend(entry.iter().filter_map(refusal));
        let mut sections = vec![Section {
            title: "TIMELINE",
            header: &["WHEN", "WHAT", "DETAIL"],
            rows,
        }];
        let upstream = Upstream::read(&state, &source).await?;
        sections.push(upstream.section());
        let traces = Traces::of(&facts, self.trace_url.unwrap_or_default());
        sections.push(traces.section());
        sections.extend(status.sections());
        let mut objects = json!({
            "repository": explained.0.to_string(), "tag": explained.1,
            "digest": entry.as_ref().map(|entry| &entry.digest),
            "arrivedBy": entry.as_ref().map(|entry| &entry.arrived_by),
            "refusal": entry.as_ref().map(|entry| &entry.refusal),
            "source": { "repository": source.0.to_string(), "tag": source.1 },
            "upstream": upstream.json(),
            "traces": traces.json(),
            "timeline": facts.iter().map(Fact::to_json).collect::<Vec<Value>>(),
        });
        status.add_to(&mut objects);
        show_sections(self.output, sections, &objects)
    }
}

fn now(entry: &TagEntry) -> Vec<String> {
    let what = match entry.digest.as_str() {
        "" => "deleted",
        digest => digest,
    };
    let mut detail = format!("{what}, by {}", entry.arrived_by);
    if let Some(from) = &entry.promoted_from {
        let (repository, tag, policy) = (&from.repository, &from.tag, &from.policy);
        detail.push_str(&format!(", from {repository}:{tag} by policy {policy}"));
    }
    vec!["now".to_owned(), "tag".to_owned(), detail]
}

/// Returns why an attachment was not promoted.
fn refusal(entry: &TagEntry) -> Option<Vec<String>> {
    let row = ["now", "refused", &entry.refusal].map(str::to_owned);
    (!entry.refusal.is_empty()).then(|| row.into())
}

/// Resolves an ambiguous name: the first component may be a host, or a local organisation with a dot.
async fn resolve(state: &State, target: &Target, tag: &Tag) -> anyhow::Result<Location> {
    if target.registry.is_some()
        && let Ok(local) = Target::from_stored(&target.to_string())
    {
        let local = (local, tag.clone());
        if entry(state, &local).await?.is_some() {
            return Ok(local);
        }
    }
    Ok((target.clone(), tag.clone()))
}

async fn entry(state: &State, location: &Location) -> anyhow::Result<Option<TagEntry>> {
    let key = key::target_tag(&location.0, &location.1);
    let entry = state.tags.get(&key).await?;
    Ok(entry.map(|entry| entry.value))
}

/// Returns the source of an image in a target, promoted or denied; any other location is its own source.
async fn source(
    state: &State,
    explained: &Location,
    entry: Option<&TagEntry>,
) -> anyhow::Result<Location> {
    if let Some(from) = entry.and_then(|entry| entry.promoted_from.as_ref()) {
        return Ok((Target::from_stored(&from.repository)?, from.tag.parse()?));
    }
    if entry.is_some() || !decisions(state, explained).await?.is_empty() {
        return Ok(explained.clone());
    }
    // A denied image has no tag in the target, only a decision.
    let (stored, tag) = (explained.0.stored(), explained.1.as_str());
    let denied = state.decisions.collect(">", |entry| {
        let is_target = entry.value.target == stored && entry.value.target_tag == tag;
        is_target.then_some(entry.value)
    });
    let denied = denied.await?.into_values();
    let Some(last) = denied.max_by_key(tag_status::decided_at) else {
        return Ok(explained.clone());
    };
    Ok((Target::from_stored(&last.repository)?, last.tag.parse()?))
}

/// Returns every decision on a tag, the newest first.
async fn decisions(state: &State, location: &Location) -> anyhow::Result<Vec<Decision>> {
    // Only local images are evaluated.
    let Some(repository) = location.0.local() else {
        return Ok(Vec::new());
    };
    let filter = key::decisions_on(repository, &location.1);
    let entries = state.decisions.list(&filter).await?.into_iter();
    let mut decisions: Vec<Decision> = entries.map(|entry| entry.value).collect();
    decisions.sort_by_key(|decision| std::cmp::Reverse(tag_status::decided_at(decision)));
    Ok(decisions)
}
