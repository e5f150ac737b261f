//! A target with what writes there: the internal registry, or a remote one with the credential of its resource.
//!
//! Promotion into a remote registry (push mirroring) is the same as into the internal one, with two differences. Others
//! may write there, so what they wrote over is told and left alone; and where nothing of ours can be is not asked, so
//! that a refusal does not wait for a registry that is away.

use sluice_domain::{Digest, Repository, Tag, Target};
use sluice_events::facts::ImageUnauthorised;
use sluice_events::wire::state::{Decision, TagEntry};
use sluice_registry::{Client, ManifestHead, ManifestRef};
use sluice_state::{Pulls, Snapshot, TagWriter, key};

use crate::handler::{Error, Evaluated, Promoter};
use crate::pending_events::PendingEvents;
use crate::promote::{occurrence, provenance};

/// A target with its registry client and tag writer.
#[derive(Debug, Clone)]
pub(crate) struct TargetEndpoint {
    pub(crate) target: Target,
    pub(crate) registry: Client,
    pub(crate) tags: TagWriter,
}

impl TargetEndpoint {
    /// Returns the repository in its registry.
    pub(crate) const fn repository(&self) -> &Repository {
        &self.target.repository
    }

    /// Says whether it is in a remote registry.
    pub(crate) const fn is_remote(&self) -> bool {
        self.target.registry.is_some()
    }

    /// Returns another repository of the same registry.
    pub(crate) fn at(self, target: Target) -> Self {
        Self { target, ..self }
    }

    /// Asks what a tag or digest names there.
    pub(crate) async fn head(
        &self,
        reference: impl Into<ManifestRef>,
    ) -> Result<Option<ManifestHead>, sluice_registry::Error> {
        let reference = reference.into();
        self.registry.head(self.repository(), &reference).await
    }
}

impl Promoter {
    /// Returns a target with what writes there; a credential is read now, and goes only there.
    pub(crate) async fn endpoint(&self, target: Target) -> Result<TargetEndpoint, Error> {
        let Some(host) = target.registry.clone() else {
            return Ok(self.internal(target.repository));
        };
        let unusable = |reason: String| Error::Remote {
            host: host.to_string(),
            reason,
        };
        // Like policies they are read anew: one that follows a watch may miss what was applied together with the policy.
        let mut known = Snapshot::default();
        for registry in self.state.registries().await? {
            if registry.host == host && registry.has_credential() {
                known.registries.insert(registry.name.clone(), registry);
            }
        }
        if known.registries.is_empty() {
            return Err(unusable(
                "no Registry resource with this `host` has a credential; apply one with `username` and `password`"
                    .to_owned(),
            ));
        }
        let registry = self
            .remotes
            .client(&self.state.budgets, &known, &host, Pulls::Uncounted)
            .map_err(|error| unusable(format!("{error:#}")))?;
        Ok(TargetEndpoint {
            tags: self.tags.at_remote(registry.clone()),
            registry,
            target,
        })
    }

    /// Returns a repository of the internal registry with what writes there.
    pub(crate) fn internal(&self, repository: Repository) -> TargetEndpoint {
        TargetEndpoint {
            target: repository.into(),
            registry: self.registry.clone(),
            tags: self.tags.clone(),
        }
    }

    /// Returns what somebody else pointed a tag to that this very decision had brought and told.
    ///
    /// Only the promoter writes into targets of the internal registry, and what else is there the comparison finds.
    pub(crate) async fn stranger(
        &self,
        case: &Evaluated<'_>,
        endpoint: &TargetEndpoint,
        tag: &Tag,
    ) -> Result<Option<Digest>, Error> {
        if !endpoint.is_remote() || !case.decision.announced {
            return Ok(None);
        }
        let key = key::target_tag(&endpoint.target, tag);
        let brought = self.state.tags.get(&key).await?.is_some_and(|entry| {
            is_settled(&entry.value, &case.decision)
                && entry.value.promoted_from == provenance(case).promotion
        });
        if !brought {
            return Ok(None);
        }
        let head = endpoint.head(tag).await?;
        match head.filter(|head| head.digest != case.subject.digest) {
            // A removal of ours that was interrupted.
            Some(head)
                if endpoint
                    .registry
                    .is_tombstone(endpoint.repository(), &head.digest)
                    .await? =>
            {
                Ok(None)
            }
            head => Ok(head.map(|head| head.digest)),
        }
    }
}

/// Says whether a tag names what a decision is about, and nobody is changing it.
pub(crate) fn is_settled(entry: &TagEntry, decision: &Decision) -> bool {
    entry.claim.is_none() && entry.digest == decision.digest
}

/// Adds that somebody else wrote over a tag, and returns the note that keeps it from being told again; nothing if it was.
pub(crate) fn tell_stranger(
    decision: &Decision,
    target: &Target,
    tag: &Tag,
    found: &Digest,
    pending_events: &mut PendingEvents,
) -> Option<String> {
    let note = format!(
        "somebody else pointed {target}:{tag} to {found}; it is left there until another image is promoted"
    );
    if decision.note == note {
        return None;
    }
    tracing::warn!(
        registry.host = ?target.registry, image.repository = %target.repository, image.tag = %tag,
        image.digest = %found, expected = decision.digest, "somebody else wrote over a promoted tag, which is left there"
    );
    let fact = ImageUnauthorised {
        repository: target.repository.clone(),
        tag: Some(tag.clone()),
        digest: found.clone(),
        reverted: false,
        reason: note.clone(),
        pushed_by: String::new(),
        expected: decision.digest.parse().ok(),
        registry: target.registry.clone(),
    };
    pending_events.fact(fact, &occurrence(decision));
    Some(note)
}
