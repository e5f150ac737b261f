//! `explain`: the history of an image, read from the log and the state, and the rule that decided.

mod tag_status;
mod timeline;
mod upstream;

use std::collections::BTreeSet;

use std::str::FromStr;

use anyhow::Context as _;
use serde_json::{Value, json};
use sluice_bus::Bus;
use sluice_domain::target::split_registry;
use sluice_domain::{Tag, Target};
use sluice_events::wire::state::{Decision, TagEntry};
use sluice_registry::ImageReference;
use sluice_state::{State, key};

use crate::commands::fact_json;
use crate::explain::tag_status::TagStatus;
use crate::explain::upstream::Upstream;
use crate::output::{Format, Section, show_sections};

/// A tag in a repository, which may be one of a remote registry.
type Location = (Target, Tag);

/// An image that somebody asks about.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    target: Target,
    tag: Option<Tag>,
}

impl FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (registry, image) = match split_registry(text) {
            Some((host, image)) => {
                let host = host.parse().map_err(|error| format!("{error}"))?;
                (Some(host), image)
            }
            None => (None, text),
        };
        let image: ImageReference = image.parse()?;
        Ok(Self {
            target: Target {
                registry,
                repository: image.repository,
            },
            tag: image.tag,
        })
    }
}

/// Shows what happened to a tag, oldest first, what scanners and policies say of it, and where it stands now.
pub(crate) async fn explain(bus: &Bus, image: &Asked, format: Format) -> anyhow::Result<()> {
    let tag = image
        .tag
        .as_ref()
        .context("name the tag, as in `hub/alpine:3.20`")?;
    let state = State::open(bus).await?;
    let asked = place(&state, &image.target, tag).await?;
    let entry = entry(&state, &asked).await?;
    let source = source(&state, &asked, entry.as_ref()).await?;
    let mut places = BTreeSet::from([asked.clone(), source.clone()]);
    let decisions = decisions(&state, &source).await?;
    for decision in &decisions {
        let target = Target::from_stored(&decision.target);
        if let (Ok(target), Ok(tag)) = (target, decision.target_tag.parse()) {
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
        "`{}:{tag}` not found; `sluice get mirrors` shows what is mirrored",
        asked.0
    );
    let at_source = self::entry(&state, &source).await?;
    let standing = TagStatus::read(&state, at_source.as_ref(), decisions).await?;
    let mut rows: Vec<Vec<String>> = facts
        .iter()
        .map(|fact| timeline::row(fact, &asked))
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
    sections.extend(standing.sections());
    let mut objects = json!({
        "repository": asked.0.to_string(), "tag": asked.1,
        "digest": entry.as_ref().map(|entry| &entry.digest),
        "arrivedBy": entry.as_ref().map(|entry| &entry.arrived_by),
        "refusal": entry.as_ref().map(|entry| &entry.refusal),
        "source": { "repository": source.0.to_string(), "tag": source.1 },
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

/// Returns why something stays out of a target that is attached to an image at the source.
fn refusal(entry: &TagEntry) -> Option<Vec<String>> {
    let row = ["now", "refused", &entry.refusal].map(str::to_owned);
    (!entry.refusal.is_empty()).then(|| row.into())
}

/// Returns the place that is meant: an organisation here may have a dot, as the host of a registry has.
async fn place(state: &State, target: &Target, tag: &Tag) -> anyhow::Result<Location> {
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

async fn entry(state: &State, place: &Location) -> anyhow::Result<Option<TagEntry>> {
    let key = key::target_tag(&place.0, &place.1);
    let entry = state.tags.get(&key).await?;
    Ok(entry.map(|entry| entry.value))
}

/// Returns where an image of a target came from, or would have come from; any other place is its own source.
async fn source(
    state: &State,
    asked: &Location,
    entry: Option<&TagEntry>,
) -> anyhow::Result<Location> {
    if let Some(from) = entry.and_then(|entry| entry.promoted_from.as_ref()) {
        return Ok((Target::from_stored(&from.repository)?, from.tag.parse()?));
    }
    if entry.is_some() || !decisions(state, asked).await?.is_empty() {
        return Ok(asked.clone());
    }
    // An image that was refused has no tag there; only its decision knows where it would have gone.
    let (stored, tag) = (asked.0.stored(), asked.1.as_str());
    let aimed = state.decisions.collect(">", |entry| {
        let is_aimed = entry.value.target == stored && entry.value.target_tag == tag;
        is_aimed.then_some(entry.value)
    });
    match aimed.await?.into_values().max_by_key(tag_status::decided) {
        Some(decision) => Ok((
            Target::from_stored(&decision.repository)?,
            decision.tag.parse()?,
        )),
        None => Ok(asked.clone()),
    }
}

/// Returns every decision on a tag, the newest first.
async fn decisions(state: &State, place: &Location) -> anyhow::Result<Vec<Decision>> {
    // Only what is here is judged.
    let Some(repository) = place.0.local() else {
        return Ok(Vec::new());
    };
    let filter = key::decisions_on(repository, &place.1);
    let mut decisions: Vec<Decision> = state
        .decisions
        .list(&filter)
        .await?
        .into_iter()
        .map(|entry| entry.value)
        .collect();
    decisions.sort_by_key(|decision| std::cmp::Reverse(tag_status::decided(decision)));
    Ok(decisions)
}
