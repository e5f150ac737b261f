//! `explain`: the history of an image, read from the log and the state, and the rule that decided.

mod standing;
mod timeline;
mod upstream;

use std::collections::BTreeSet;

use anyhow::Context as _;
use serde_json::{Value, json};
use sluice_bus::Bus;
use sluice_domain::{Repository, Tag};
use sluice_events::wire::state::{Decision, TagEntry};
use sluice_registry::ImageReference;
use sluice_state::{State, key};

use crate::commands::fact_json;
use crate::explain::standing::Standing;
use crate::explain::upstream::Upstream;
use crate::output::{Format, Section, show_sections};

/// A tag in a repository.
type Place = (Repository, Tag);

/// Shows what happened to a tag, oldest first, what scanners and policies say of it, and where it stands now.
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
    let asked: Place = (image.repository.clone(), tag.clone());
    let entry = entry(&state, &asked).await?;
    let source = source(&state, &asked, entry.as_ref()).await?;
    let mut places = BTreeSet::from([asked.clone(), source.clone()]);
    let decisions = decisions(&state, &source).await?;
    for decision in &decisions {
        if let (Ok(target), Ok(tag)) = (decision.target.parse(), decision.target_tag.parse()) {
            places.insert((target, tag));
        }
    }
    let digests: BTreeSet<String> = decisions
        .iter()
        .map(|decision| decision.digest.clone())
        .chain(entry.iter().map(|entry| entry.digest.clone()))
        .collect();
    let facts = timeline::read(bus, &places, &digests).await?;
    anyhow::ensure!(
        entry.is_some() || !facts.is_empty() || !decisions.is_empty(),
        "nothing is known of `{}:{tag}`; `sluice get mirrors` shows what is mirrored",
        image.repository
    );
    let at_source = self::entry(&state, &source).await?;
    let standing = Standing::read(&state, at_source.as_ref(), decisions).await?;
    let mut rows: Vec<Vec<String>> = facts
        .iter()
        .map(|fact| timeline::row(fact, &asked))
        .collect();
    rows.extend(entry.iter().map(now));
    let mut sections = vec![Section {
        title: "TIMELINE",
        header: &["WHEN", "WHAT", "DETAIL"],
        rows,
    }];
    let upstream = Upstream::read(&state, &source).await?;
    sections.push(upstream.section());
    sections.extend(standing.sections());
    let mut objects = json!({
        "repository": asked.0, "tag": asked.1,
        "digest": entry.as_ref().map(|entry| &entry.digest),
        "arrivedBy": entry.as_ref().map(|entry| &entry.arrived_by),
        "source": { "repository": source.0, "tag": source.1 },
        "upstream": upstream.json(),
        "timeline": facts.iter().map(fact_json).collect::<Vec<Value>>(),
    });
    standing.add_to(&mut objects);
    show_sections(format, sections, &objects)
}

fn now(entry: &TagEntry) -> Vec<String> {
    let what = if entry.digest.is_empty() {
        "removed".to_owned()
    } else {
        entry.digest.clone()
    };
    let from = entry
        .promoted_from
        .as_ref()
        .map(|from| {
            format!(
                ", from {}:{} by policy {}",
                from.repository, from.tag, from.policy
            )
        })
        .unwrap_or_default();
    vec![
        "now".to_owned(),
        "tag".to_owned(),
        format!("{what}, by {}{from}", entry.arrived_by),
    ]
}

async fn entry(state: &State, place: &Place) -> anyhow::Result<Option<TagEntry>> {
    let entry = state.tags.get(&key::tag(&place.0, &place.1)).await?;
    Ok(entry.map(|entry| entry.value))
}

/// Returns where an image of a target came from, or would have come from; any other place is its own source.
async fn source(state: &State, asked: &Place, entry: Option<&TagEntry>) -> anyhow::Result<Place> {
    if let Some(from) = entry.and_then(|entry| entry.promoted_from.as_ref()) {
        return Ok((from.repository.parse()?, from.tag.parse()?));
    }
    if entry.is_some() || !decisions(state, asked).await?.is_empty() {
        return Ok(asked.clone());
    }
    // An image that was refused has no tag there; only its decision knows where it would have gone.
    let mut aimed: Vec<Decision> = state
        .decisions
        .list(">")
        .await?
        .into_iter()
        .map(|entry| entry.value)
        .filter(|decision| {
            decision.target == asked.0.as_str() && decision.target_tag == asked.1.as_str()
        })
        .collect();
    aimed.sort_by_key(standing::decided);
    match aimed.pop() {
        Some(decision) => Ok((decision.repository.parse()?, decision.tag.parse()?)),
        None => Ok(asked.clone()),
    }
}

/// Returns every decision on a tag, the newest first.
async fn decisions(state: &State, place: &Place) -> anyhow::Result<Vec<Decision>> {
    let filter = key::decisions_on(&place.0, &place.1);
    let mut decisions: Vec<Decision> = state
        .decisions
        .list(&filter)
        .await?
        .into_iter()
        .map(|entry| entry.value)
        .collect();
    decisions.sort_by_key(|decision| std::cmp::Reverse(standing::decided(decision)));
    Ok(decisions)
}
