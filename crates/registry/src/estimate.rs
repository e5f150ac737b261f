//! Says what a copy would cost, without copying: it walks the manifests at the source and looks at the destination.

use std::collections::{HashMap, HashSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sluice_domain::{Digest, RegistryHost, Repository};

use crate::client::Client;
use crate::copy::{MAX_DEPTH, MAX_MANIFESTS};
use crate::error::Error;
use crate::manifest::{Descriptor, Manifest};

/// How many looks are under way at a time.
const PARALLEL_LOOKS: usize = 8;

/// What a copy costs, or several together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Manifests that are fetched from the source: what Docker Hub counts as pulls.
    pub pulls: u64,
    /// Requests for manifests and blobs to the source; looks, lists and tokens are not among them.
    pub requests: u64,
    /// The bytes that are transferred.
    pub bytes: u64,
    /// The blobs that are transferred.
    pub blobs_copied: u64,
    /// The blobs that another repository of the destination has, which it may mount.
    pub blobs_mounted: u64,
    /// The blobs that are there already.
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

/// Where something would be copied to.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// The registry; where there is none, nothing is there yet.
    pub registry: Option<&'a Client>,
    /// The repository there.
    pub repository: &'a Repository,
}

/// Adds up the cost of copies that follow one another: what one of them brings, the next one finds there.
#[derive(Debug, Default)]
pub struct Estimator {
    manifests: HashMap<Digest, Manifest>,
    placed: HashSet<(Option<RegistryHost>, Repository, Digest)>,
    brought: HashSet<(Option<RegistryHost>, Digest)>,
}

impl Estimator {
    /// Takes note of a manifest that no registry has as it is, as a part of an index.
    pub fn know(&mut self, manifest: &Manifest) {
        let digest = manifest.digest.clone();
        self.manifests.insert(digest, manifest.clone());
    }

    /// Returns a manifest that was looked at.
    #[must_use]
    pub fn known(&self, digest: &Digest) -> Option<&Manifest> {
        self.manifests.get(digest)
    }

    /// Says what it would cost to copy a digest, and takes note of it as copied.
    ///
    /// To know that, the manifests are fetched, which a registry may count as pulls; each is fetched once.
    ///
    /// # Errors
    /// A failing registry, or a document that no copy would take.
    pub async fn copy(
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
            for (manifest, there) in self.level(source, digest, &level, destination).await? {
                if !there {
                    cost.pulls += 1;
                }
                self.placed.insert(place(destination, &manifest.digest));
                for blob in manifest.blobs() {
                    if there {
                        self.placed.insert(place(destination, &blob.digest));
                        self.brought
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

    /// Returns the manifests of one level, each with whether it is at the destination.
    async fn level(
        &self,
        (source, repository): (&Client, &Repository),
        top: &Digest,
        level: &[Option<Descriptor>],
        destination: Destination<'_>,
    ) -> Result<Vec<(Manifest, bool)>, Error> {
        let looks = level.iter().map(|wanted| async move {
            let digest = wanted.as_ref().map_or(top, |child| &child.digest);
            let mut there = self.placed.contains(&place(destination, digest));
            if let Some(known) = self.manifests.get(digest) {
                if !there && let Some(registry) = destination.registry {
                    let head = registry
                        .head(destination.repository, &digest.into())
                        .await?;
                    there = head.is_some();
                }
                return Ok((known.clone(), there));
            }
            // A child that the destination has is read there, where it costs nothing.
            if let Some(registry) = destination.registry {
                let read = match wanted {
                    Some(child) => registry.child(destination.repository, child).await,
                    None => {
                        registry
                            .manifest(destination.repository, &digest.into())
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
                Some(child) => source.child(repository, child).await?,
                None => source.manifest(repository, &digest.into()).await?,
            };
            Ok((manifest, there))
        });
        stream::iter(looks.collect::<Vec<_>>())
            .buffered(PARALLEL_LOOKS)
            .try_collect()
            .await
    }

    async fn blobs(
        &mut self,
        destination: Destination<'_>,
        blobs: HashMap<Digest, u64>,
        cost: &mut Cost,
    ) -> Result<(), Error> {
        let unknown: Vec<_> = blobs
            .into_iter()
            .map(|(digest, size)| {
                let known = self.placed.contains(&place(destination, &digest));
                async move {
                    let there = match destination.registry {
                        Some(registry) if !known => {
                            let look = registry.has_blob(destination.repository, &digest, "pull");
                            look.await?
                        }
                        _ => known,
                    };
                    Ok::<_, Error>((digest, size, there))
                }
            })
            .collect();
        let looked: Vec<_> = stream::iter(unknown)
            .buffer_unordered(PARALLEL_LOOKS)
            .try_collect()
            .await?;
        for (digest, size, there) in looked {
            self.placed.insert(place(destination, &digest));
            if there {
                self.brought.insert((host(destination), digest));
                cost.blobs_skipped += 1;
            } else if self.brought.insert((host(destination), digest)) {
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

fn place(
    destination: Destination<'_>,
    digest: &Digest,
) -> (Option<RegistryHost>, Repository, Digest) {
    let repository = destination.repository.clone();
    (host(destination), repository, digest.clone())
}
