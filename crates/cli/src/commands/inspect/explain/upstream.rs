//! The upstream history of a mirrored tag, from the state, which goes back further than the log.

use serde_json::{Value, json};
use sluice_events::subject;
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Move, UpstreamTag};
use sluice_state::State;

use super::location::Location;
use crate::output::{Section, time};

/// The upstream entries of a tag, one for each mirror.
pub(super) struct Upstream(Vec<UpstreamTag>);

impl Upstream {
    /// Reads the entries.
    pub(super) async fn read(state: &State, (target, tag): &Location) -> anyhow::Result<Self> {
        let filter = format!("*.{}", subject::encode(tag.as_str()));
        let entries = state.upstream.collect(&filter, |entry| {
            let is_target =
                target.registry.is_none() && entry.value.repository == target.repository.as_str();
            is_target.then_some(entry.value)
        });
        Ok(Self(entries.await?.into_values().collect()))
    }

    /// Returns a table of the moves, oldest first.
    pub(super) fn section(&self) -> Section {
        let rows = self.0.iter().flat_map(|entry| {
            let row = |moved: &Move| {
                let what = if moved.digest.is_empty() {
                    "deleted".to_owned()
                } else {
                    moved.digest.clone()
                };
                vec![
                    time_from_wire(moved.at.as_ref())
                        .map(time)
                        .unwrap_or_default(),
                    moved.move_number.to_string(),
                    what,
                    first_seen(entry, &moved.digest).unwrap_or_else(|| "-".to_owned()),
                    entry.mirror.clone(),
                ]
            };
            entry.history.iter().map(row)
        });
        Section {
            title: "UPSTREAM",
            header: &["WHEN", "MOVE", "DIGEST", "FIRST SEEN", "MIRROR"],
            rows: rows.collect(),
        }
    }

    /// Returns the entries as objects.
    pub(super) fn json(&self) -> Value {
        let entry = |entry: &UpstreamTag| {
            let moves = entry.history.iter().map(|moved| {
                json!({
                    "at": time_from_wire(moved.at.as_ref()).map(time).unwrap_or_default(),
                    "moveNumber": moved.move_number,
                    "digest": (!moved.digest.is_empty()).then_some(&moved.digest),
                    "firstSeenAt": first_seen(entry, &moved.digest),
                })
            });
            json!({
                "mirror": entry.mirror,
                "source": entry.source,
                "digest": entry.digest,
                "deleted": entry.deleted,
                "moves": moves.collect::<Vec<Value>>(),
            })
        };
        self.0.iter().map(entry).collect()
    }
}

fn first_seen(entry: &UpstreamTag, digest: &str) -> Option<String> {
    let mut seen = entry.first_seen.iter();
    let seen = seen.find(|seen| seen.digest == digest)?;
    Some(
        time_from_wire(seen.at.as_ref())
            .map(time)
            .unwrap_or_default(),
    )
}
