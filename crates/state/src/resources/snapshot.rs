//! A snapshot of all resources, and the rules that follow from several of them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use sluice_domain::resources::{
    Account, EffectiveSettings, Kind, Mirror, PromotionPolicy, PruningPolicy, Registry,
    RepositorySettings, Resource, Webhook, settings_for,
};
use sluice_domain::{RegistryHost, Repository, ResourceName};

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
    /// When each webhook was created; it gets no earlier event.
    pub webhooks_since: BTreeMap<ResourceName, DateTime<Utc>>,
    /// Accounts.
    pub accounts: BTreeMap<ResourceName, Account>,
    /// The repositories with promoted images, also those that no policy names any more.
    pub targets: BTreeSet<Repository>,
    /// The revision of the newest change.
    pub revision: u64,
}

impl Snapshot {
    /// Says whether a repository is a target of promotion, where only the promoter may write: a policy, enabled or not,
    /// promotes into it, or promoted images are in it.
    #[must_use]
    pub fn is_target(&self, repository: &Repository) -> bool {
        self.targets.contains(repository) || self.is_named_by_policy(repository)
    }

    /// Says whether a policy, enabled or not, promotes into a repository.
    #[must_use]
    pub fn is_named_by_policy(&self, repository: &Repository) -> bool {
        self.policies
            .values()
            .any(|policy| policy.to.could_produce(repository))
    }

    /// Returns the enabled policies that evaluate images of a repository.
    pub fn policies_from<'a>(
        &'a self,
        repository: &'a Repository,
    ) -> impl Iterator<Item = &'a PromotionPolicy> {
        self.policies
            .values()
            .filter(|policy| policy.enabled && policy.from.matches(repository.as_str()))
    }

    /// Returns the resource of a remote registry.
    #[must_use]
    pub fn registry(&self, host: &RegistryHost) -> Option<&Registry> {
        let mut registries = self.registries.values();
        registries.find(|registry| registry.host == *host)
    }

    /// Returns the settings of a repository.
    #[must_use]
    pub fn settings(&self, repository: &Repository) -> EffectiveSettings {
        settings_for(self.repositories.values(), repository)
    }

    /// Says whether the tags of a repository never move.
    #[must_use]
    pub fn is_immutable(&self, repository: &Repository) -> bool {
        self.settings(repository).immutable
    }

    pub(super) fn put(&mut self, resource: Resource, created_at: Option<DateTime<Utc>>) {
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

    pub(super) fn remove(&mut self, kind: Kind, name: &ResourceName) {
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
