//! The digests that exist: those that tags name, that mirrors select, and that decisions are on, with all that they consist
//! of.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hasher as _};
use std::ops::ControlFlow;

use chrono::{DateTime, Utc};
use sluice_domain::{Class, Classify as _, Digest, Repository};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Decision, ImageEntry, TagEntry, UpstreamTag};
use sluice_state::reconcile::PAGE;
use sluice_state::{Entries, Stored, is_attachment, key};

use super::inventory::{Inventory, retry_later};
use crate::error::Error;

/// How many images without an entry are read from the registry.
const MOST_UNDESCRIBED: usize = 10_000;

/// The digests that exist, as hashes of eight bytes: where two digests have the same hash, both count as existing.
pub(super) struct ExistingDigests {
    before: DateTime<Utc>,
    digests: HashSet<u64>,
    /// The revisions up to which tags, upstream tags and decisions were read.
    revisions: [u64; 3],
}

impl ExistingDigests {
    /// Reads the digests that exist; `None` if the registry does not list all that it has.
    pub(super) async fn read(
        inventory: &Inventory,
        before: DateTime<Utc>,
    ) -> Result<Option<Self>, Error> {
        let state = &inventory.state;
        let revisions = [
            state.tags.last_revision().await?,
            state.upstream.last_revision().await?,
            state.decisions.last_revision().await?,
        ];
        let Some(listed) = repositories(inventory).await? else {
            return Ok(None);
        };
        let mut existing = Self {
            before,
            digests: HashSet::new(),
            revisions,
        };
        let Some(mut undescribed) = existing.add_tags(inventory, &listed).await? else {
            tracing::warn!(
                "images and verdicts are kept: the registry does not list every repository that has tags, or too many images have no entry"
            );
            return Ok(None);
        };
        existing.add_upstream_and_decisions(inventory).await?;
        for repository in &listed {
            add_unknown_tags(inventory, repository, &mut undescribed).await?;
        }
        existing.add_undescribed(inventory, undescribed).await?;
        existing.add_children(inventory).await?;
        Ok(Some(existing))
    }

    /// Adds what tags name by their entries, and returns the images without an entry; `None` if a tag is in a repository that
    /// the registry does not list.
    async fn add_tags(
        &mut self,
        inventory: &Inventory,
        listed: &BTreeSet<Repository>,
    ) -> Result<Option<Vec<(Repository, Digest)>>, Error> {
        let mut described = HashSet::new();
        let images = inventory.state.images.each(">", |_, entry| {
            described.extend(entry.map(|entry| hash(&entry.value.digest)));
            ControlFlow::Continue(())
        });
        images.await?;
        let (mut undescribed, mut is_complete) = (Vec::new(), true);
        let tags = inventory.state.tags.each(">", |_, entry| {
            let Some(tag) = entry.map(|entry| entry.value) else {
                return ControlFlow::Continue(());
            };
            self.digests.extend(of_tag(&tag, self.before));
            if let (Ok(repository), Ok(digest)) = (tag.repository.parse(), tag.digest.parse()) {
                is_complete &= listed.contains(&repository) && undescribed.len() < MOST_UNDESCRIBED;
                if !described.contains(&hash(&tag.digest)) && !is_attachment(&tag) {
                    undescribed.push((repository, digest));
                }
            }
            if is_complete {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        tags.await?;
        Ok(is_complete.then_some(undescribed))
    }

    /// Adds what mirrors select, and what decisions are on.
    async fn add_upstream_and_decisions(&mut self, inventory: &Inventory) -> Result<(), Error> {
        let upstream = inventory.state.upstream.each("*.*", |_, entry| {
            let upstream = entry.map(|entry| entry.value);
            let named = upstream
                .iter()
                .flat_map(|tag| of_upstream(tag, self.before));
            self.digests.extend(named);
            ControlFlow::Continue(())
        });
        upstream.await?;
        let decisions = inventory.state.decisions.each(">", |_, entry| {
            let decision = entry.map(|entry| entry.value);
            self.digests.extend(decision.iter().flat_map(of_decision));
            ControlFlow::Continue(())
        });
        Ok(decisions.await?)
    }

    /// Adds images without an entry, by their bytes.
    async fn add_undescribed(
        &mut self,
        inventory: &Inventory,
        undescribed: Vec<(Repository, Digest)>,
    ) -> Result<(), Error> {
        for (repository, digest) in undescribed {
            self.digests.insert(hash(digest.as_str()));
            let read = inventory
                .contents
                .read(&inventory.registry, &repository, &digest);
            match read.await {
                Ok(image) => self.digests.extend(of_image(&image)),
                // An image that is missing or cannot be read has no children that were scanned.
                Err(sluice_state::Error::Registry(error)) if error.class() == Class::Permanent => {}
                Err(sluice_state::Error::Registry(error)) => return Err(retry_later(error)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn add_children(&mut self, inventory: &Inventory) -> Result<(), Error> {
        let mut children = HashSet::new();
        let images = inventory.state.images.each(">", |_, entry| {
            let image = entry.map(|entry| entry.value);
            let image = image.filter(|image| self.digests.contains(&hash(&image.digest)));
            children.extend(image.iter().flat_map(of_image));
            ControlFlow::Continue(())
        });
        images.await?;
        self.digests.extend(children);
        Ok(())
    }

    /// Says whether a digest exists, also by what was written since the digests were read.
    pub(super) async fn contains(
        &mut self,
        inventory: &Inventory,
        digest: &str,
    ) -> Result<bool, Error> {
        if !self.digests.contains(&hash(digest)) {
            self.catch_up(inventory).await?;
        }
        Ok(self.digests.contains(&hash(digest)))
    }

    async fn catch_up(&mut self, inventory: &Inventory) -> Result<(), Error> {
        let state = &inventory.state;
        let ([tags, upstream, decisions], before) = (self.revisions, self.before);
        let (mut digests, mut named) = (Vec::new(), Vec::new());
        let tags = read_newer(&state.tags, ">", tags, |tag: &TagEntry| {
            digests.extend(of_tag(tag, before));
            named.extend([&tag.digest, claimed(tag)].map(|digest| digest.parse::<Digest>()));
        })
        .await?;
        let upstream = read_newer(&state.upstream, "*.*", upstream, |tag: &UpstreamTag| {
            digests.extend(of_upstream(tag, before));
            named.push(tag.digest.parse());
        })
        .await?;
        let decisions = read_newer(&state.decisions, ">", decisions, |decision| {
            digests.extend(of_decision(decision));
        })
        .await?;
        for digest in named.into_iter().flatten() {
            let image = state.images.get(&key::image(&digest)).await?;
            digests.extend(image.iter().flat_map(|image| of_image(&image.value)));
        }
        self.digests.extend(digests);
        self.revisions = [tags, upstream, decisions];
        Ok(())
    }
}

/// Passes what was written after a revision to a function; returns the last revision.
async fn read_newer<R: Stored>(
    entries: &Entries<R>,
    filter: &str,
    mut after: u64,
    mut take: impl FnMut(&R),
) -> Result<u64, Error> {
    loop {
        let page = entries.page(filter, after, PAGE).await?;
        for entry in page.entries {
            take(&entry.value);
            after = after.max(entry.revision);
        }
        match page.next {
            Some(next) => after = next,
            None => return Ok(after),
        }
    }
}

/// Lists every repository of the registry; `None` if it does not list them.
async fn repositories(inventory: &Inventory) -> Result<Option<BTreeSet<Repository>>, Error> {
    match inventory.registry.list_repositories(|_| true).await {
        Ok(listed) => Ok(Some(listed.into_iter().collect())),
        Err(error) if error.class() == Class::Permanent => {
            tracing::warn!(%error, "images and verdicts are kept: the registry does not list its repositories");
            Ok(None)
        }
        Err(error) => Err(retry_later(error)),
    }
}

/// Adds what tags without a settled entry name.
async fn add_unknown_tags(
    inventory: &Inventory,
    repository: &Repository,
    found: &mut Vec<(Repository, Digest)>,
) -> Result<(), Error> {
    let listed = match inventory.registry.list_tags(repository).await {
        Err(error) if error.is_not_found() => return Ok(()),
        listed => listed.map_err(retry_later)?,
    };
    let filter = key::tags_of(repository);
    let known = inventory.state.tags.collect(&filter, |entry| {
        let is_settled = !entry.value.digest.is_empty() && entry.value.claim.is_none();
        is_settled.then_some(())
    });
    let known = known.await?;
    for tag in listed {
        if !known.contains_key(&key::tag(repository, &tag))
            && let Some(digest) = inventory.tag_digest(repository, &tag).await?
        {
            found.push((repository.clone(), digest));
        }
    }
    Ok(())
}

/// Returns what a tag names, or is about to name; and what it named before, if that is recent.
fn of_tag(tag: &TagEntry, before: DateTime<Utc>) -> Vec<u64> {
    let is_recent = time_from_wire(tag.arrived_at.as_ref()).is_none_or(|at| at >= before);
    let mut named = vec![
        tag.digest.as_str(),
        claimed(tag),
        tag.source_digest.as_str(),
    ];
    if is_recent {
        let pruned = tag.pruning.as_ref();
        named.extend([tag.previous.as_str(), tag.refused.as_str()]);
        named.extend(pruned.map(|pruning| pruning.digest.as_str()));
    }
    hashes(named)
}

fn claimed(tag: &TagEntry) -> &str {
    tag.claim.as_ref().map_or("", |claim| &claim.digest)
}

/// Returns what an upstream tag names, and what it named before, if that is recent.
fn of_upstream(tag: &UpstreamTag, before: DateTime<Utc>) -> Vec<u64> {
    let is_recent = |at| time_from_wire(at).is_none_or(|at| at >= before);
    let moves = tag.history.iter().filter(|one| is_recent(one.at.as_ref()));
    let pending = tag.pending.iter().map(|one| one.digest.as_str());
    let current = (!tag.deleted).then_some(tag.digest.as_str());
    hashes(
        moves
            .map(|one| one.digest.as_str())
            .chain(pending)
            .chain(current),
    )
}

fn of_decision(decision: &Decision) -> Vec<u64> {
    let inputs = decision.inputs.iter().map(|input| input.digest.as_str());
    hashes(inputs.chain([decision.digest.as_str()]))
}

fn of_image(image: &ImageEntry) -> Vec<u64> {
    hashes(image.children.iter().map(|child| child.digest.as_str()))
}

fn hashes<'a>(digests: impl IntoIterator<Item = &'a str>) -> Vec<u64> {
    let digests = digests.into_iter().filter(|digest| !digest.is_empty());
    digests.map(hash).collect()
}

/// Returns the hash of a digest or key.
pub(super) fn hash(digest: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(digest.as_bytes());
    hasher.finish()
}
