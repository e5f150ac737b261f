//! `explain`: the history of an image, read from the log and the state.

use anyhow::Context as _;
use chrono::SecondsFormat;
use serde_json::{Value, json};
use sluice_bus::{Bus, Fact};
use sluice_domain::Tag;
use sluice_events::Event;
use sluice_events::subject::of_repository;
use sluice_registry::ImageReference;
use sluice_state::{State, key};

use crate::commands::fact_json;
use crate::output::{Format, show};

/// Shows what happened to a tag, oldest first, and where it stands now.
pub(crate) async fn explain(
    bus: &Bus,
    image: &ImageReference,
    format: Format,
) -> anyhow::Result<()> {
    let tag = image
        .tag
        .as_ref()
        .context("name the tag, as in `hub/alpine:3.20`")?;
    let state = State::open(bus).await?;
    let entry = state.tags.get(&key::tag(&image.repository, tag)).await?;
    let filter = format!("sluice.v1.*.*.{}", of_repository(&image.repository));
    let facts: Vec<Fact> = bus
        .facts(&filter)
        .await?
        .into_iter()
        .filter(|fact| is_about(fact, tag))
        .collect();
    anyhow::ensure!(
        entry.is_some() || !facts.is_empty(),
        "nothing is known of `{}:{tag}`; `sluice get mirrors` shows what is mirrored",
        image.repository
    );
    let mut rows: Vec<Vec<String>> = facts.iter().map(row).collect();
    if let Some(entry) = &entry {
        let now = &entry.value;
        let what = if now.digest.is_empty() {
            "removed".to_owned()
        } else {
            now.digest.clone()
        };
        rows.push(vec![
            "now".to_owned(),
            "tag".to_owned(),
            format!("{what}, by {}", now.arrived_by),
        ]);
    }
    let objects = json!({
        "repository": image.repository, "tag": tag,
        "digest": entry.as_ref().map(|entry| &entry.value.digest),
        "arrivedBy": entry.as_ref().map(|entry| &entry.value.arrived_by),
        "timeline": facts.iter().map(fact_json).collect::<Vec<Value>>(),
    });
    show(format, &["WHEN", "WHAT", "DETAIL"], rows, &objects)
}

fn is_about(fact: &Fact, tag: &Tag) -> bool {
    match &fact.event {
        Some(Event::UpstreamTagMoved(fact)) => fact.tag == *tag,
        Some(Event::UpstreamTagGone(fact)) => fact.tag == *tag,
        Some(Event::TagMirrored(fact)) => fact.tag == *tag,
        Some(Event::TagMirrorFailed(fact)) => fact.tag == *tag,
        _ => false,
    }
}

fn row(fact: &Fact) -> Vec<String> {
    let at = fact
        .at
        .map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true))
        .unwrap_or_default();
    let name = fact.event.as_ref().map(Event::name).unwrap_or_default();
    let detail = match &fact.event {
        Some(Event::UpstreamTagMoved(fact)) => format!(
            "{} at {}, move {}",
            fact.digest, fact.source, fact.move_number
        ),
        Some(Event::UpstreamTagGone(fact)) => format!("no longer listed at {}", fact.source),
        Some(Event::TagMirrored(fact)) => format!(
            "{}, {} blobs copied, {} mounted, {} present",
            fact.digest, fact.blobs_copied, fact.blobs_mounted, fact.blobs_skipped
        ),
        Some(Event::TagMirrorFailed(fact)) => fact.reason.clone(),
        _ => String::new(),
    };
    vec![at, name.to_owned(), detail]
}
