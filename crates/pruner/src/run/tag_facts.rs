//! What the plan of a run is made from: the tags of a repository with their images, times and protections.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use sluice_domain::resources::KeepOrder;
use sluice_domain::{Digest, Tag};
use sluice_events::time_from_wire;
use sluice_events::wire::state::TagEntry;
use sluice_policy::retention::{Rules, TagFacts};
use sluice_registry::Client;
use sluice_state::{Snapshot, State, key};

use super::condition_facts::{ConditionFacts, read_condition_facts};
use super::protection::protection;
use super::removal::{soaking_images, waiting_decision};
use crate::error::Error;

/// Reads the facts of tags.
pub(super) struct TagFactsReader<'a> {
    pub(super) state: &'a State,
    pub(super) registry: &'a Client,
    pub(super) catalog: &'a Snapshot,
    pub(super) rules: &'a Rules<'a>,
}

impl TagFactsReader<'_> {
    /// Reads the facts of the tags that have an entry and that the registry lists.
    pub(super) async fn read(
        &self,
        entries: &BTreeMap<Tag, TagEntry>,
        listed: &BTreeSet<Tag>,
    ) -> Result<Vec<TagFacts>, Error> {
        let (rules, state) = (self.rules, self.state);
        let decisions = key::decisions_in(rules.repository);
        let decisions = state
            .decisions
            .collect(&decisions, waiting_decision)
            .await?;
        let soaking = soaking_images(self.catalog, rules.repository, decisions.values());
        let mut cache: BTreeMap<Digest, ConditionFacts> = BTreeMap::new();
        let mut all = Vec::new();
        for (tag, entry) in entries.iter().filter(|(tag, _)| listed.contains(*tag)) {
            let Ok(digest) = entry.digest.parse::<Digest>() else {
                continue;
            };
            let facts = match (cache.get(&digest), rules.policy) {
                (Some(facts), _) => facts.clone(),
                (None, None) => ConditionFacts::default(),
                (None, Some((_, condition))) => {
                    let repository = rules.repository;
                    read_condition_facts(state, self.registry, repository, &digest, condition)
                        .await?
                }
            };
            cache.insert(digest.clone(), facts.clone());
            let arrived_at = time_from_wire(entry.arrived_at.as_ref());
            let pulled_at = match rules.keep.by {
                KeepOrder::Pulled => self.last_pull(&digest).await?,
                KeepOrder::Version | KeepOrder::Pushed => None,
            };
            let soak = soaking.get(&(tag.to_string(), entry.digest.clone()));
            let protected = protection(entry, rules.now)
                .or_else(|| {
                    soak.map(|policy| format!("it waits for the soak time of policy `{policy}`"))
                })
                .or_else(|| {
                    arrived_at
                        .is_none()
                        .then(|| "when it arrived is not known".to_owned())
                });
            all.push(TagFacts {
                tag: tag.clone(),
                digest,
                pulled_at,
                arrived_at: arrived_at.unwrap_or(rules.now),
                protected,
                scan: facts.scan,
                image: facts.image,
            });
        }
        Ok(all)
    }

    async fn last_pull(&self, digest: &Digest) -> Result<Option<DateTime<Utc>>, Error> {
        let key = key::pull(self.rules.repository, digest);
        let entry = self.state.pulls.get(&key).await?;
        Ok(entry.and_then(|entry| time_from_wire(entry.value.at.as_ref())))
    }
}
