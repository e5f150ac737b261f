//! The catalogue of all resources: read once, then updated by a watch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use sluice_bus::Update;
use sluice_domain::resources::{Kind, Resource};
use sluice_events::time_from_wire;
use sluice_events::wire::state as wire;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::State;
use crate::entries::{Entries, Entry};
use crate::error::Error;
use crate::key;
use crate::resources::snapshot::Snapshot;

/// A view of all resources; cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalog {
    current: watch::Receiver<Arc<Snapshot>>,
}

/// The task that updates a catalogue.
#[derive(Debug)]
pub struct CatalogFeed {
    state: State,
    current: watch::Sender<Arc<Snapshot>>,
}

impl Catalog {
    /// Reads all resources; the feed must run for as long as the catalogue is used.
    pub async fn open(state: &State) -> Result<(Self, CatalogFeed), Error> {
        let applied = CatalogState::load(state).await?;
        let (sender, current) = watch::channel(Arc::new(applied.snapshot));
        Ok((
            Self { current },
            CatalogFeed {
                state: state.clone(),
                current: sender,
            },
        ))
    }

    /// Returns the newest snapshot.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.borrow().clone()
    }

    /// Waits for the next snapshot; `false` once the feed has ended.
    pub async fn changed(&mut self) -> bool {
        self.current.changed().await.is_ok()
    }
}

impl CatalogFeed {
    /// Follows changes until `stopping` is cancelled; a watch that ends is started again.
    pub async fn run(self, stopping: CancellationToken) -> Result<(), Error> {
        loop {
            let followed = tokio::select! {
                followed = self.follow() => followed,
                () = stopping.cancelled() => return Ok(()),
            };
            if let Err(error) = followed {
                tracing::warn!(%error, "the watch of the resources failed; retrying in 1s");
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = stopping.cancelled() => return Ok(()),
            }
        }
    }

    /// Starts the watches before it reads, so that no change falls between.
    async fn follow(&self) -> Result<(), Error> {
        let mut changes = self.state.resources.bucket().watch().await?;
        let mut targets = self.state.targets.bucket().watch().await?;
        let mut applied = CatalogState::load(&self.state).await?;
        let mut has_changed = true;
        loop {
            if has_changed {
                self.current
                    .send_replace(Arc::new(applied.snapshot.clone()));
            }
            has_changed = tokio::select! {
                biased;
                change = targets.next() => match change {
                    Some(change) => applied.apply_target(change?),
                    None => return Ok(()),
                },
                change = changes.next() => match change {
                    Some(change) => {
                        let change = change?;
                        // A deleted policy may be all that made a repository a target. The targets that it promoted
                        // into are recorded by now, so they are read before the deletion is applied
                        // (`State::record_target`).
                        let is_policy = kind_of(change.key()) == Some(Kind::PromotionPolicy);
                        let new_target = is_policy && applied.load_targets(&self.state).await?;
                        applied.apply_resource(change) || new_target
                    }
                    None => return Ok(()),
                },
            };
        }
    }
}

/// The snapshot so far, with the revisions of its entries.
///
/// A watch delivers old changes again after a reconnect. A retention limit that was raised must not be lowered for a
/// moment, nor a deleted resource come back, so a change counts only if it is newer than the known revision of its key.
#[derive(Debug, Default)]
struct CatalogState {
    snapshot: Snapshot,
    resources: Revisions,
    targets: Revisions,
}

/// The revision of the last change of each key, removals among them.
#[derive(Debug, Default)]
struct Revisions(BTreeMap<String, u64>);

impl Revisions {
    /// Records the revision of a change; says whether it is newer than the known one of its key.
    fn advance(&mut self, change: &Update) -> bool {
        let known = self.0.entry(change.key().to_owned()).or_default();
        let is_newer = change.revision() > *known;
        *known = change.revision().max(*known);
        is_newer
    }
}

impl CatalogState {
    async fn load(state: &State) -> Result<Self, Error> {
        let mut applied = Self::default();
        for change in state.resources.bucket().last_changes(">").await? {
            applied.apply_resource(change);
        }
        applied.load_targets(state).await?;
        Ok(applied)
    }

    async fn load_targets(&mut self, state: &State) -> Result<bool, Error> {
        let targets = state.targets.bucket();
        let mut has_changed = false;
        for change in targets.last_changes(&key::promotion_targets()).await? {
            has_changed |= self.apply_target(change);
        }
        Ok(has_changed)
    }

    /// Applies a change of the bucket `control`, which holds the records of targets; says whether the snapshot changed.
    fn apply_target(&mut self, change: Update) -> bool {
        let Some(repository) = key::repository_of_target(change.key()) else {
            return false;
        };
        if !self.targets.advance(&change) {
            return false;
        }
        match change {
            Update::Put(_) => self.snapshot.targets.insert(repository),
            Update::Removed { .. } => self.snapshot.targets.remove(&repository),
        }
    }

    /// Applies a change of a resource; says whether the snapshot changed.
    fn apply_resource(&mut self, change: Update) -> bool {
        if !self.resources.advance(&change) {
            return false;
        }
        let snapshot = &mut self.snapshot;
        snapshot.revision = snapshot.revision.max(change.revision());
        match change {
            Update::Put(entry) => {
                let key = entry.key.clone();
                match decode(entry) {
                    Ok((resource, created_at)) => snapshot.put(resource, created_at),
                    // The known version stays; fields of a newer schema must not be ignored.
                    Err(reason) => tracing::error!(
                        key,
                        reason,
                        "cannot read a resource, whose known version stays in use; update this service"
                    ),
                }
            }
            Update::Removed { key, .. } => {
                let name = key
                    .split_once('.')
                    .and_then(|(_, name)| sluice_events::subject::decode(name)?.parse().ok());
                if let (Some(kind), Some(name)) = (kind_of(&key), name) {
                    snapshot.remove(kind, &name);
                }
            }
        }
        true
    }
}

/// Returns the kind of resource of a key.
fn kind_of(key: &str) -> Option<Kind> {
    key.split_once('.').and_then(|(kind, _)| kind.parse().ok())
}

/// Returns the resource of an entry and the time of its creation.
fn decode(entry: sluice_bus::Entry) -> Result<(Resource, Option<DateTime<Utc>>), String> {
    let Entry { value, .. }: Entry<wire::Resource> =
        Entries::decode(entry).map_err(|error| error.to_string())?;
    let kind = value.kind.parse().map_err(|error| format!("{error}"))?;
    let resource = Resource::from_json(kind, &value.json).map_err(|error| error.to_string())?;
    let created_at = value.created_at.or(value.applied_at);
    Ok((resource, time_from_wire(created_at.as_ref())))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use sluice_domain::resources::parse_documents;

    use super::*;

    fn put(revision: u64, text: &str) -> Update {
        let resource = parse_documents(text).unwrap().remove(0).resource;
        let value = wire::Resource {
            kind: resource.kind().to_string(),
            name: resource.name().to_string(),
            json: resource.to_json().unwrap(),
            schema: 1,
            ..Default::default()
        };
        Update::Put(sluice_bus::Entry {
            key: key::resource(resource.kind().as_str(), resource.name()),
            value: value.encode_to_vec().into(),
            revision,
        })
    }

    fn removed(revision: u64, put: &Update) -> Update {
        Update::Removed {
            key: put.key().to_owned(),
            revision,
        }
    }

    fn keep(revision: u64, count: u32) -> Update {
        put(
            revision,
            &format!("kind: Repository\nname: hub/*\nkeep: {count}\n"),
        )
    }

    fn kept(applied: &CatalogState) -> Vec<u32> {
        let repositories = applied.snapshot.repositories.values();
        repositories
            .map(|settings| settings.keep.unwrap().newest)
            .collect()
    }

    #[test]
    fn a_raised_limit_is_not_lowered_by_a_redelivered_change() {
        let mut applied = CatalogState::default();
        applied.apply_resource(keep(7, 100));
        for again in [keep(3, 10), keep(5, 20), keep(7, 100)] {
            assert!(!applied.apply_resource(again));
            assert_eq!(kept(&applied), [100]);
        }
        assert!(applied.apply_resource(keep(8, 50)));
        assert_eq!(kept(&applied), [50]);
    }

    #[test]
    fn a_deleted_resource_does_not_come_back_with_a_redelivered_change() {
        let old = keep(3, 10);
        // It may have been deleted before this process saw it.
        for seen in [true, false] {
            let mut applied = CatalogState::default();
            if seen {
                applied.apply_resource(old.clone());
            }
            applied.apply_resource(removed(4, &old));
            for again in [old.clone(), removed(4, &old)] {
                applied.apply_resource(again);
                assert_eq!(kept(&applied), [0; 0], "{seen}");
            }
            applied.apply_resource(keep(5, 30));
            assert_eq!(kept(&applied), [30]);
        }
    }
}
