//! Applies a resource: the entry, then the event; removes one: the event, then the entry.

use chrono::TimeDelta;
use sluice_bus::{Bus, Cause};
use sluice_domain::resources::{Kind, Registry, Resource};
use sluice_domain::{ResourceName, now};
use sluice_events::facts::ResourceApplied;
use sluice_events::subject;
use sluice_events::wire::state as wire;
use sluice_events::{Event, time_from_wire, time_to_wire};
use sluice_service::crash;

use crate::State;
use crate::entries::Entry;
use crate::error::Error;
use crate::key;

/// How long the log is sure to hold an event.
const LOG_RETENTION: TimeDelta = TimeDelta::days(7);

impl State {
    /// Says whether a resource is applied, by its entry and not by a catalogue that may be a moment behind.
    pub async fn has_resource(&self, kind: Kind, name: &ResourceName) -> Result<bool, Error> {
        let key = key::resource(kind.as_str(), name);
        Ok(self.resources.get(&key).await?.is_some())
    }

    /// Reads the `Registry` resources; one with the schema of a newer version is left out.
    pub async fn registries(&self) -> Result<Vec<Registry>, Error> {
        let filter = format!("{}.*", subject::encode(Kind::Registry.as_str()));
        let entries = self.resources.list(&filter).await?;
        let read = |entry: Entry<wire::Resource>| match Resource::from_json(
            Kind::Registry,
            &entry.value.json,
        ) {
            Ok(Resource::Registry(registry)) => Some(registry),
            _ => None,
        };
        Ok(entries.into_iter().filter_map(read).collect())
    }

    /// Reads all resources; one with the schema of a newer version is left out.
    pub async fn applied(&self) -> Result<Vec<Resource>, Error> {
        let entries = self.resources.list(">").await?;
        let read = |entry: Entry<wire::Resource>| {
            let kind = entry.value.kind.parse().ok()?;
            Resource::from_json(kind, &entry.value.json).ok()
        };
        Ok(entries.into_iter().filter_map(read).collect())
    }

    /// Stores a resource and publishes its event; `false` if the same resource was stored already.
    pub async fn apply(&self, bus: &Bus, resource: &Resource, actor: &str) -> Result<bool, Error> {
        let key = key::resource(resource.kind().as_str(), resource.name());
        let json = resource.to_json().map_err(|source| Error::Resource {
            key: key.clone(),
            source,
        })?;
        let before = self.resources.get(&key).await?;
        if let Some(same) = before.as_ref().filter(|entry| entry.value.json == json) {
            publish_if_missing(bus, resource, same, actor).await?;
            return Ok(false);
        }
        let now = time_to_wire(now());
        let created_at = before
            .as_ref()
            .and_then(|entry| entry.value.created_at.or(entry.value.applied_at))
            .unwrap_or(now);
        let value = wire::Resource {
            kind: resource.kind().to_string(),
            name: resource.name().to_string(),
            json,
            applied_at: Some(now),
            applied_by: actor.to_owned(),
            created_at: Some(created_at),
            ..Default::default()
        };
        let revision = self
            .resources
            .write(&key, &value, before.map(|entry| entry.revision))
            .await?;
        crash::point("resources.stored");
        let event = applied(resource.kind(), resource.name(), revision, actor);
        publish(bus, event).await?;
        Ok(true)
    }

    /// Removes a resource and publishes its event; `false` if there was none.
    pub async fn remove(
        &self,
        bus: &Bus,
        kind: Kind,
        name: &ResourceName,
        actor: &str,
    ) -> Result<bool, Error> {
        let key = key::resource(kind.as_str(), name);
        let Some(before) = self.resources.get(&key).await? else {
            return Ok(false);
        };
        // Before the entry is deleted: afterwards nothing would show that the event is missing.
        let removed = ResourceApplied {
            removed: true,
            ..applied(kind, name, before.revision, actor)
        };
        publish(bus, removed).await?;
        crash::point("resources.removal_published");
        // A resource that was applied again meanwhile stays.
        self.resources.delete_at(&key, before.revision).await?;
        Ok(true)
    }
}

/// Publishes the event of a stored resource if the log does not have it: its process may have died before.
async fn publish_if_missing(
    bus: &Bus,
    resource: &Resource,
    stored: &Entry<wire::Resource>,
    actor: &str,
) -> Result<(), Error> {
    let applied_at = time_from_wire(stored.value.applied_at.as_ref());
    if applied_at.is_none_or(|at| now() - at > LOG_RETENTION) {
        return Ok(());
    }
    let event = applied(resource.kind(), resource.name(), stored.revision, actor);
    let logged = bus.facts(&Event::from(event.clone()).subject()).await?;
    let is_published = logged.iter().any(|fact| match &fact.event {
        Some(Event::ResourceApplied(logged)) => {
            logged.revision == event.revision && !logged.removed
        }
        _ => false,
    });
    if !is_published {
        publish(bus, event).await?;
    }
    Ok(())
}

async fn publish(bus: &Bus, event: ResourceApplied) -> Result<(), Error> {
    let occurrence = if event.removed { "removed" } else { "applied" };
    bus.publish(&event.into(), &Cause::root(), occurrence)
        .await?;
    Ok(())
}

fn applied(kind: Kind, name: &ResourceName, revision: u64, actor: &str) -> ResourceApplied {
    ResourceApplied {
        kind: kind.to_string(),
        name: name.clone(),
        revision,
        removed: false,
        actor: actor.to_owned(),
    }
}
