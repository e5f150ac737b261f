//! The catalogue: all resources, read once and then kept up to date by a watch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use sluice_bus::Update;
use sluice_domain::resources::{
    Account, Kind, Mirror, PromotionPolicy, PruningPolicy, Registry, RepositorySettings, Resource,
    Webhook, settings_for,
};
use sluice_domain::{Repository, ResourceName};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::State;
use crate::entries::{Entries, Entry};
use crate::error::Error;
use sluice_events::time_from_wire;
use sluice_events::wire::state as wire;

/// All resources at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Remote registries.
    pub registries: BTreeMap<ResourceName, Registry>,
    /// Mirrors.
    pub mirrors: BTreeMap<ResourceName, Mirror>,
    /// Settings of local repositories.
    pub repositories: BTreeMap<ResourceName, RepositorySettings>,
    /// Promotion policies.
    pub policies: BTreeMap<ResourceName, PromotionPolicy>,
    /// Pruning policies.
    pub pruning: BTreeMap<ResourceName, PruningPolicy>,
    /// Webhooks.
    pub webhooks: BTreeMap<ResourceName, Webhook>,
    /// Since when there are these webhooks; what happened before is not for them.
    pub webhooks_since: BTreeMap<ResourceName, DateTime<Utc>>,
    /// Accounts.
    pub accounts: BTreeMap<ResourceName, Account>,
    /// The revision of the newest change.
    pub revision: u64,
}

impl Snapshot {
    /// Says whether some policy, on or off, promotes into this repository; only the promoter may write there.
    #[must_use]
    pub fn is_target(&self, repository: &Repository) -> bool {
        self.policies
            .values()
            .any(|policy| policy.to.could_produce(repository))
    }

    /// Returns the policies that judge images of this repository.
    pub fn policies_from<'a>(
        &'a self,
        repository: &'a Repository,
    ) -> impl Iterator<Item = &'a PromotionPolicy> {
        self.policies
            .values()
            .filter(|policy| policy.enabled && policy.from.matches(repository.as_str()))
    }

    /// Returns the settings of this repository.
    #[must_use]
    pub fn settings(&self, repository: &Repository) -> Option<&RepositorySettings> {
        settings_for(self.repositories.values(), repository)
    }

    /// Says whether the tags of this repository keep the image that they name.
    #[must_use]
    pub fn is_immutable(&self, repository: &Repository) -> bool {
        self.settings(repository)
            .is_some_and(|settings| settings.immutable)
    }

    fn put(&mut self, resource: Resource, created_at: Option<DateTime<Utc>>) {
        let name = resource.name().clone();
        if let (Resource::Webhook(_), Some(since)) = (&resource, created_at) {
            self.webhooks_since.insert(name.clone(), since);
        }
        match resource {
            Resource::Registry(resource) => drop(self.registries.insert(name, resource)),
            Resource::Mirror(resource) => drop(self.mirrors.insert(name, resource)),
            Resource::Repository(resource) => drop(self.repositories.insert(name, resource)),
            Resource::PromotionPolicy(resource) => drop(self.policies.insert(name, resource)),
            Resource::PruningPolicy(resource) => drop(self.pruning.insert(name, resource)),
            Resource::Webhook(resource) => drop(self.webhooks.insert(name, resource)),
            Resource::Account(resource) => drop(self.accounts.insert(name, resource)),
        }
    }

    fn remove(&mut self, kind: Kind, name: &ResourceName) {
        match kind {
            Kind::Registry => drop(self.registries.remove(name)),
            Kind::Mirror => drop(self.mirrors.remove(name)),
            Kind::Repository => drop(self.repositories.remove(name)),
            Kind::PromotionPolicy => drop(self.policies.remove(name)),
            Kind::PruningPolicy => drop(self.pruning.remove(name)),
            Kind::Webhook => {
                self.webhooks.remove(name);
                self.webhooks_since.remove(name);
            }
            Kind::Account => drop(self.accounts.remove(name)),
        }
    }
}

/// A view of all resources; cheap to clone.
#[derive(Debug, Clone)]
pub struct Catalog {
    current: watch::Receiver<Arc<Snapshot>>,
}

/// Keeps a catalogue up to date.
#[derive(Debug)]
pub struct CatalogFeed {
    state: State,
    current: watch::Sender<Arc<Snapshot>>,
}

impl Catalog {
    /// Reads all resources; the feed must then run for as long as the catalogue is used.
    ///
    /// # Errors
    /// A failing bus.
    pub async fn open(state: &State) -> Result<(Self, CatalogFeed), Error> {
        let (sender, current) = watch::channel(Arc::new(load(state).await?));
        Ok((
            Self { current },
            CatalogFeed {
                state: state.clone(),
                current: sender,
            },
        ))
    }

    /// Returns the resources as they are now.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.borrow().clone()
    }

    /// Waits for the next change; ends with the feed.
    pub async fn changed(&mut self) -> bool {
        self.current.changed().await.is_ok()
    }
}

impl CatalogFeed {
    /// Follows changes until it is told to stop; a watch that ends is begun again.
    ///
    /// # Errors
    /// None; the signature is that of a task.
    pub async fn run(self, stopping: CancellationToken) -> Result<(), Error> {
        loop {
            let followed = tokio::select! {
                followed = self.follow() => followed,
                () = stopping.cancelled() => return Ok(()),
            };
            if let Err(error) = followed {
                tracing::warn!(%error, "the catalogue cannot be followed; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = stopping.cancelled() => return Ok(()),
            }
        }
    }

    /// Watches first and reads then, so that no change falls between.
    async fn follow(&self) -> Result<(), Error> {
        let mut changes = self.state.resources.bucket().watch().await?;
        self.current
            .send_replace(Arc::new(load(&self.state).await?));
        while let Some(change) = changes.next().await {
            let change = change?;
            self.current.send_modify(|current| {
                let mut next = Snapshot::clone(current);
                apply(&mut next, change);
                *current = Arc::new(next);
            });
        }
        Ok(())
    }
}

async fn load(state: &State) -> Result<Snapshot, Error> {
    let mut snapshot = Snapshot::default();
    for entry in state.resources.bucket().list(">").await? {
        apply(&mut snapshot, Update::Put(entry));
    }
    Ok(snapshot)
}

fn apply(snapshot: &mut Snapshot, update: Update) {
    match update {
        Update::Put(entry) => {
            snapshot.revision = snapshot.revision.max(entry.revision);
            let key = entry.key.clone();
            match read(entry) {
                Ok((resource, created_at)) => snapshot.put(resource, created_at),
                // What was known of it stays; a resource of a newer version is not half understood.
                Err(reason) => tracing::error!(
                    key,
                    reason,
                    "a resource cannot be read; update this service"
                ),
            }
        }
        Update::Removed { key, revision } => {
            snapshot.revision = snapshot.revision.max(revision);
            let parts = key.split_once('.').and_then(|(kind, name)| {
                Some((
                    kind.parse().ok()?,
                    sluice_events::subject::text(name)?.parse().ok()?,
                ))
            });
            if let Some((kind, name)) = parts {
                snapshot.remove(kind, &name);
            }
        }
    }
}

/// Returns the resource and when it was applied for the first time.
fn read(entry: sluice_bus::Entry) -> Result<(Resource, Option<DateTime<Utc>>), String> {
    let Entry { value, .. }: Entry<wire::Resource> =
        Entries::decode(entry).map_err(|error| error.to_string())?;
    let kind = value.kind.parse().map_err(|error| format!("{error}"))?;
    let resource = Resource::from_json(kind, &value.json).map_err(|error| error.to_string())?;
    let created_at = value.created_at.or(value.applied_at);
    Ok((resource, time_from_wire(created_at.as_ref())))
}
