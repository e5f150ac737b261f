//! Estimates the cost of a copy: reads the manifests at the source and checks what the destination has.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sluice_domain::{Digest, RegistryHost, Repository};

use crate::client::Client;
use crate::content::manifest::descriptor::Descriptor;
use crate::content::manifest::{MAX_DEPTH, MAX_MANIFESTS, Manifest};
use crate::error::Error;

/// How many checks run concurrently.
const PARALLEL_CHECKS: usize = 8;

/// The cost of one or more copies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Manifests that are fetched from the source: what Docker Hub counts as pulls.
    pub pulls: u64,
    /// GETs of manifests and blobs at the source; HEADs, lists and tokens are not counted.
    pub requests: u64,
    /// The bytes that are transferred.
    pub bytes: u64,
    /// The blobs that are transferred.
    pub blobs_copied: u64,
    /// The blobs that the destination may mount from another of its repositories.
    pub blobs_mounted: u64,
    /// The blobs that the destination has already.
    pub blobs_skipped: u64,
}

impl Cost {
    /// Adds the cost of another copy.
    pub fn add(&mut self, other: &Self) {
        self.pulls += other.pulls;
        self.requests += other.requests;
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.blobs_copied += other.blobs_copied;
        self.blobs_mounted += other.blobs_mounted;
        self.blobs_skipped += other.blobs_skipped;
    }
}

/// The destination of an estimated copy.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// The registry; without one the destination is empty.
    pub registry: Option<&'a Client>,
    /// The repository there.
    pub repository: &'a Repository,
}

/// Estimates a sequence of copies: what one of them copies, the next one finds at the destination.
#[derive(Debug, Default)]
pub struct Estimator {
    manifests: HashMap<Digest, Manifest>,
    present: HashSet<(Option<RegistryHost>, Repository, Digest)>,
    in_registry: HashSet<(Option<RegistryHost>, Digest)>,
}

impl Estimator {
    /// Adds a manifest that no registry has, as a filtered index.
    pub fn add_manifest(&mut self, manifest: &Manifest) {
        let digest = manifest.digest.clone();
        self.manifests.insert(digest, manifest.clone());
    }

    /// Returns a manifest that was read.
    #[must_use]
    pub fn manifest(&self, digest: &Digest) -> Option<&Manifest> {
        self.manifests.get(digest)
    }

    /// Estimates the copy of a digest, and counts it as copied for the next estimates.
    ///
    /// The manifests are fetched for that, which a registry may count as pulls; each is fetched once.
    pub async fn estimate_copy(
        &mut self,
        source: (&Client, &Repository),
        digest: &Digest,
        destination: Destination<'_>,
    ) -> Result<Cost, Error> {
        let mut cost = Cost::default();
        let (mut level, mut depth) = (vec![None], 0);
        let mut seen: HashSet<Digest> = HashSet::from([digest.clone()]);
        let mut blobs: HashMap<Digest, u64> = HashMap::new();
        while !level.is_empty() {
            if depth > MAX_DEPTH {
                return Err(Error::untrusted(digest, "its indexes are nested too deep"));
            }
            let mut next = Vec::new();
            for (manifest, is_present) in self.level(source, digest, &level, destination).await? {
                if !is_present {
                    cost.pulls += 1;
                }
                self.present.insert(location(destination, &manifest.digest));
                for blob in manifest.blobs() {
                    if is_present {
                        self.present.insert(location(destination, &blob.digest));
                        self.in_registry
                            .insert((host(destination), blob.digest.clone()));
                    }
                    blobs.insert(blob.digest.clone(), blob.size);
                }
                let children = manifest.children().iter();
                next.extend(
                    children
                        .filter(|child| seen.insert(child.digest.clone()))
                        .cloned()
                        .map(Some),
                );
                self.manifests.insert(manifest.digest.clone(), manifest);
            }
            if seen.len() > MAX_MANIFESTS {
                return Err(Error::untrusted(digest, "it has too many manifests"));
            }
            (level, depth) = (next, depth + 1);
        }
        self.blobs(destination, blobs, &mut cost).await?;
        cost.requests = cost.pulls + cost.blobs_copied;
        Ok(cost)
    }

    /// Returns the manifests of one level, each with whether the destination has it.
    async fn level(
        &self,
        (source, repository): (&Client, &Repository),
        top: &Digest,
        level: &[Option<Descriptor>],
        destination: Destination<'_>,
    ) -> Result<Vec<(Manifest, bool)>, Error> {
        let checks = level.iter().map(|wanted| async move {
            let digest = wanted.as_ref().map_or(top, |child| &child.digest);
            let mut is_present = self.present.contains(&location(destination, digest));
            if let Some(known) = self.manifests.get(digest) {
                if !is_present && let Some(registry) = destination.registry {
                    let head = registry
                        .head(destination.repository, &digest.into())
                        .await?;
                    is_present = head.is_some();
                }
                return Ok((known.clone(), is_present));
            }
            // A child that the destination has is read there, which costs no pull.
            if let Some(registry) = destination.registry {
                let read = match wanted {
                    Some(child) => registry.fetch_child(destination.repository, child).await,
                    None => {
                        registry
                            .fetch_manifest(destination.repository, &digest.into())
                            .await
                    }
                };
                match read {
                    Ok(manifest) => return Ok((manifest, true)),
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
            }
            let manifest = match wanted {
                Some(child) => source.fetch_child(repository, child).await?,
                None => source.fetch_manifest(repository, &digest.into()).await?,
            };
            Ok((manifest, is_present))
        });
        stream::iter(checks.collect::<Vec<_>>())
            .buffered(PARALLEL_CHECKS)
            .try_collect()
            .await
    }

    async fn blobs(
        &mut self,
        destination: Destination<'_>,
        blobs: HashMap<Digest, u64>,
        cost: &mut Cost,
    ) -> Result<(), Error> {
        let checks: Vec<_> = blobs
            .into_iter()
            .map(|(digest, size)| {
                let known = self.present.contains(&location(destination, &digest));
                async move {
                    let is_present = match destination.registry {
                        Some(registry) if !known => {
                            let has_blob =
                                registry.has_blob(destination.repository, &digest, "pull");
                            has_blob.await?
                        }
                        _ => known,
                    };
                    Ok::<_, Error>((digest, size, is_present))
                }
            })
            .collect();
        let checked: Vec<_> = stream::iter(checks)
            .buffer_unordered(PARALLEL_CHECKS)
            .try_collect()
            .await?;
        for (digest, size, is_present) in checked {
            self.present.insert(location(destination, &digest));
            if is_present {
                self.in_registry.insert((host(destination), digest));
                cost.blobs_skipped += 1;
            } else if self.in_registry.insert((host(destination), digest)) {
                cost.blobs_copied += 1;
                cost.bytes = cost.bytes.saturating_add(size);
            } else {
                cost.blobs_mounted += 1;
            }
        }
        Ok(())
    }
}

fn host(destination: Destination<'_>) -> Option<RegistryHost> {
    destination.registry.map(|registry| registry.host().clone())
}

fn location(
    destination: Destination<'_>,
    digest: &Digest,
) -> (Option<RegistryHost>, Repository, Digest) {
    let repository = destination.repository.clone();
    (host(destination), repository, digest.clone())
}
