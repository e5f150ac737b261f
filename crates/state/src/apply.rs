//! Applying resources: the entry, then the fact; removing them: the fact, then the entry.

use chrono::TimeDelta;
use sluice_bus::{Bus, Cause};
use sluice_domain::resources::{Kind, Registry, Resource};
use sluice_domain::{ResourceName, now};
use sluice_events::facts::ResourceApplied;
use sluice_events::subject::token;
use sluice_events::wire::state as wire;
use sluice_events::{Event, time_from_wire, time_to_wire};
use sluice_service::crash;

use crate::State;
use crate::entries::Entry;
use crate::error::Error;
use crate::key;

/// For how long the log is sure to have what was told.
const LOGGED: TimeDelta = TimeDelta::days(7);

impl State {
    /// Reads the remote registries as they are applied now; one that a newer version applied is left out.
    ///
    /// # Errors
    /// A failing bus.
    pub async fn registries(&self) -> Result<Vec<Registry>, Error> {
        let filter = format!("{}.*", token(Kind::Registry.as_str()));
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

    /// Reads the resources that are applied now; what a newer version applied is left out.
    ///
    /// # Errors
    /// A failing bus.
    pub async fn applied(&self) -> Result<Vec<Resource>, Error> {
        let entries = self.resources.list(">").await?;
        let read = |entry: Entry<wire::Resource>| {
            let kind = entry.value.kind.parse().ok()?;
            Resource::from_json(kind, &entry.value.json).ok()
        };
        Ok(entries.into_iter().filter_map(read).collect())
    }

    /// Stores a resource and tells it; one that is stored just so is left alone, which `false` says.
    ///
    /// # Errors
    /// A failing bus, or somebody who applied the same resource at the same time.
    pub async fn apply(&self, bus: &Bus, resource: &Resource, actor: &str) -> Result<bool, Error> {
        let key = key::resource(resource.kind().as_str(), resource.name());
        let json = resource.to_json().map_err(|source| Error::Resource {
            key: key.clone(),
            source,
        })?;
        let before = self.resources.get(&key).await?;
        if let Some(same) = before.as_ref().filter(|entry| entry.value.json == json) {
            self.tell_untold(bus, resource, same, actor).await?;
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
        self.tell(
            bus,
            resource.kind(),
            resource.name(),
            revision,
            false,
            actor,
        )
        .await?;
        Ok(true)
    }

    /// Removes a resource and tells it; `false` if there was none.
    ///
    /// # Errors
    /// A failing bus, or somebody who applied the same resource at the same time.
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
        // An entry that is gone could not tell any more that its removal was not told.
        self.tell(bus, kind, name, before.revision, true, actor)
            .await?;
        crash::point("resources.removal_told");
        // Whoever applied it again meanwhile wants it.
        self.resources.delete_at(&key, before.revision).await?;
        Ok(true)
    }

    /// Tells a resource that was stored by somebody who died before telling it; the log says whether that is so.
    async fn tell_untold(
        &self,
        bus: &Bus,
        resource: &Resource,
        stored: &Entry<wire::Resource>,
        actor: &str,
    ) -> Result<(), Error> {
        let applied_at = time_from_wire(stored.value.applied_at.as_ref());
        if applied_at.is_none_or(|at| now() - at > LOGGED) {
            return Ok(());
        }
        let (kind, name) = (resource.kind(), resource.name());
        let revision = stored.revision;
        let fact = applied(kind, name, revision, false, actor);
        let logged = bus.facts(&Event::from(fact).subject()).await?;
        let is_told = logged.iter().any(|fact| match &fact.event {
            Some(Event::ResourceApplied(told)) => told.revision == revision && !told.removed,
            _ => false,
        });
        if !is_told {
            self.tell(bus, kind, name, revision, false, actor).await?;
        }
        Ok(())
    }

    async fn tell(
        &self,
        bus: &Bus,
        kind: Kind,
        name: &ResourceName,
        revision: u64,
        removed: bool,
        actor: &str,
    ) -> Result<(), Error> {
        let fact = applied(kind, name, revision, removed, actor);
        let occurrence = if removed { "removed" } else { "applied" };
        bus.publish(&fact.into(), &Cause::root(), occurrence)
            .await?;
        Ok(())
    }
}

fn applied(
    kind: Kind,
    name: &ResourceName,
    revision: u64,
    removed: bool,
    actor: &str,
) -> ResourceApplied {
    ResourceApplied {
        kind: kind.to_string(),
        name: name.clone(),
        revision,
        removed,
        actor: actor.to_owned(),
    }
}
