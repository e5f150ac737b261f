//! Endpoints of targets: the internal registry, or a remote one with the credential of its resource.
//!
//! Promotion into a remote registry (push mirroring) is the same as into the internal one, with two differences. Others
//! may write there, so a tag that they moved is reported and left as it is. And a remote registry that cannot have the
//! image is not asked, so that a refusal does not wait for a registry that is unreachable.

use std::collections::BTreeSet;

use sluice_domain::{Digest, Repository, Target};
use sluice_registry::{
    Client, CopyJob, CopyOptions, Manifest, ManifestHead, ManifestRef, RootPush,
};
use sluice_state::{Catalog, Pulls, RemoteClients, Snapshot, State, TagWriter};
use sluice_telemetry::metrics::PROMOTED_BYTES;

use crate::error::Error;
use crate::evaluate::evaluated_decision::Evaluation;
use crate::evaluate::image_contents::ImageContentsReader;

/// Everything that reads and writes targets.
#[derive(Debug, Clone)]
pub(crate) struct Targets {
    pub(crate) state: State,
    pub(crate) catalog: Catalog,
    /// The internal registry.
    pub(crate) registry: Client,
    /// Writes tags of the internal registry.
    pub(crate) tags: TagWriter,
    pub(crate) remotes: RemoteClients,
    pub(crate) contents: ImageContentsReader,
}

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

    /// Says whether the target is in a remote registry.
    pub(crate) const fn is_remote(&self) -> bool {
        self.target.registry.is_some()
    }

    /// Returns the host of a remote registry, empty for the internal one: the label of metrics.
    pub(crate) fn remote_registry(&self) -> &str {
        let registry = self.target.registry.as_ref();
        registry.map_or("", |host| host.as_str())
    }

    /// Returns the endpoint of another repository of the same registry.
    pub(crate) fn at(self, target: Target) -> Self {
        Self { target, ..self }
    }

    /// Returns the head of a tag or digest, if the target has it.
    pub(crate) async fn head(
        &self,
        reference: impl Into<ManifestRef>,
    ) -> Result<Option<ManifestHead>, sluice_registry::Error> {
        let reference = reference.into();
        self.registry.head(self.repository(), &reference).await
    }

    /// Says whether the target has one of some manifests.
    pub(crate) async fn has_any(
        &self,
        manifests: &[Digest],
    ) -> Result<bool, sluice_registry::Error> {
        for manifest in manifests {
            if self.head(manifest).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Says whether the target has every one of some manifests.
    pub(crate) async fn has_all(
        &self,
        manifests: &[Digest],
    ) -> Result<bool, sluice_registry::Error> {
        for manifest in manifests {
            if self.head(manifest).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Targets {
    /// Returns the endpoint of a target; a credential is read now, and is sent only there.
    pub(crate) async fn endpoint(&self, target: Target) -> Result<TargetEndpoint, Error> {
        let Some(host) = target.registry.clone() else {
            return Ok(self.internal(target.repository));
        };
        let unusable = |reason: String| Error::Remote {
            host: host.to_string(),
            reason,
        };
        // Read from the state like policies: a catalogue that follows a watch may miss a resource that was applied together with
        // the policy.
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

    /// Returns the endpoint of a repository of the internal registry.
    pub(crate) fn internal(&self, repository: Repository) -> TargetEndpoint {
        TargetEndpoint {
            target: repository.into(),
            registry: self.registry.clone(),
            tags: self.tags.clone(),
        }
    }

    /// Returns the manifests below an image in a target.
    pub(crate) async fn children(
        &self,
        digest: &Digest,
        endpoint: &TargetEndpoint,
    ) -> Result<BTreeSet<Digest>, Error> {
        let (registry, repository) = (&endpoint.registry, endpoint.repository());
        self.contents.children(digest, registry, repository).await
    }

    /// Copies an image from its source into a target.
    pub(crate) async fn copy_image(
        &self,
        evaluation: &Evaluation<'_>,
        endpoint: &TargetEndpoint,
        root_push: RootPush,
    ) -> Result<Manifest, Error> {
        let source = &evaluation.subject.repository;
        let digest: &Digest = &evaluation.subject.digest;
        if let Some(target) = endpoint.target.local() {
            let record = self.state.record_target_image(
                target,
                source,
                evaluation.manifests(),
                &evaluation.key,
            );
            record.await?;
        }
        let options = CopyOptions {
            // It was read when the image was evaluated.
            root: self.contents.cached_manifest(digest),
            root_push,
            ..CopyOptions::default()
        };
        Ok(self.copy_from(source, digest, endpoint, &options).await?)
    }

    /// Copies a manifest with all that it lists from a repository of the internal registry into a target.
    pub(crate) async fn copy_from(
        &self,
        source: &Repository,
        digest: &Digest,
        endpoint: &TargetEndpoint,
        options: &CopyOptions,
    ) -> Result<Manifest, sluice_registry::Error> {
        // A remote registry has the blobs of no repository here.
        let siblings = endpoint.target.local().map(|_| source);
        let job = CopyJob {
            source: &self.registry,
            source_repository: source,
            digest,
            target: &endpoint.registry,
            target_repository: endpoint.repository(),
            siblings: siblings.map(std::slice::from_ref).unwrap_or_default(),
        };
        let copied = job.run_with(options).await?;
        PROMOTED_BYTES.add(copied.bytes_copied, &[endpoint.remote_registry()]);
        Ok(copied.root)
    }

    /// Ends the claim and the tag change of a promotion that was interrupted.
    pub(crate) async fn end_claim(&self, evaluation: &Evaluation<'_>) -> Result<(), Error> {
        // A policy without a valid target has written nothing.
        let Ok((target, target_tag)) = evaluation.target() else {
            return Ok(());
        };
        if target.local().is_none() && !evaluation.decision.was_allowed {
            return Ok(());
        }
        let endpoint = self.endpoint(target).await?;
        let (digest, provenance) = (Some(&evaluation.subject.digest), evaluation.provenance());
        let tags = &endpoint.tags;
        let ended = tags.clean_up_stale(endpoint.repository(), &target_tag, digest, &provenance);
        Ok(ended.await?)
    }
}
