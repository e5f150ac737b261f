//! Which digests exist: those that tags name, that mirrors select, and that were decided on, with all that they consist of.

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hasher as _};
use std::ops::ControlFlow;

use chrono::{DateTime, Utc};
use sluice_domain::{Class, Classify as _, Digest, Repository};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{Decision, ImageEntry, TagEntry, UpstreamTag};
use sluice_state::reconcile::PAGE;
use sluice_state::{Entries, Stored, is_attachment, key};

use super::waited_for;
use crate::handler::{Error, Promoter};

/// How many images are read from the registry of which no entry says what they consist of.
const MOST_UNDESCRIBED: usize = 10_000;

/// The digests that exist, as eight bytes of each: where two are the same in these, both count as there.
pub(super) struct Existing {
    before: DateTime<Utc>,
    digests: HashSet<u64>,
    /// Up to which revision tags, what is upstream, and decisions were read.
    read: [u64; 3],
}

impl Existing {
    /// Finds out what exists; nothing is returned if the registry does not list all that it has.
    pub(super) async fn read(
        promoter: &Promoter,
        before: DateTime<Utc>,
    ) -> Result<Option<Self>, Error> {
        let state = &promoter.state;
        let read = [
            state.tags.last_revision().await?,
            state.upstream.last_revision().await?,
            state.decisions.last_revision().await?,
        ];
        let Some(listed) = repositories(promoter).await? else {
            return Ok(None);
        };
        let mut existing = Self {
            before,
            digests: HashSet::new(),
            read,
        };
        let Some(mut undescribed) = existing.add_tags(promoter, &listed).await? else {
            tracing::warn!(
                "images and verdicts are kept: the registry does not list every repository that has tags, or it is not known what most images consist of"
            );
            return Ok(None);
        };
        existing.add_others(promoter).await?;
        for repository in &listed {
            unknown_tags(promoter, repository, &mut undescribed).await?;
        }
        existing.add_undescribed(promoter, undescribed).await?;
        existing.add_children(promoter).await?;
        Ok(Some(existing))
    }

    /// Adds what tags name by their entries, and returns of which images no entry says what they consist of; nothing if
    /// something is in a repository that the registry does not list.
    async fn add_tags(
        &mut self,
        promoter: &Promoter,
        listed: &BTreeSet<Repository>,
    ) -> Result<Option<Vec<(Repository, Digest)>>, Error> {
        let mut described = HashSet::new();
        let images = promoter.state.images.each(">", |_, entry| {
            described.extend(entry.map(|entry| short(&entry.value.digest)));
            ControlFlow::Continue(())
        });
        images.await?;
        let (mut undescribed, mut is_complete) = (Vec::new(), true);
        let tags = promoter.state.tags.each(">", |_, entry| {
            let Some(tag) = entry.map(|entry| entry.value) else {
                return ControlFlow::Continue(());
            };
            self.digests.extend(of_tag(&tag, self.before));
            if let (Ok(repository), Ok(digest)) = (tag.repository.parse(), tag.digest.parse()) {
                is_complete &= listed.contains(&repository) && undescribed.len() < MOST_UNDESCRIBED;
                if !described.contains(&short(&tag.digest)) && !is_attachment(&tag) {
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

    /// Adds what mirrors select, and what was decided on.
    async fn add_others(&mut self, promoter: &Promoter) -> Result<(), Error> {
        let upstream = promoter.state.upstream.each("*.*", |_, entry| {
            let upstream = entry.map(|entry| entry.value);
            let named = upstream
                .iter()
                .flat_map(|tag| of_upstream(tag, self.before));
            self.digests.extend(named);
            ControlFlow::Continue(())
        });
        upstream.await?;
        let decisions = promoter.state.decisions.each(">", |_, entry| {
            let decision = entry.map(|entry| entry.value);
            self.digests.extend(decision.iter().flat_map(of_decision));
            ControlFlow::Continue(())
        });
        Ok(decisions.await?)
    }

    /// Adds images of which no entry says what they consist of, by their bytes.
    async fn add_undescribed(
        &mut self,
        promoter: &Promoter,
        undescribed: Vec<(Repository, Digest)>,
    ) -> Result<(), Error> {
        for (repository, digest) in undescribed {
            self.digests.insert(short(digest.as_str()));
            let read = promoter
                .images
                .read(&promoter.registry, &repository, &digest);
            match read.await {
                Ok(image) => self.digests.extend(of_image(&image)),
                // What is missing or cannot be read consists of nothing that was scanned.
                Err(sluice_state::Error::Registry(error)) if error.class() == Class::Permanent => {}
                Err(sluice_state::Error::Registry(error)) => return Err(waited_for(error)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn add_children(&mut self, promoter: &Promoter) -> Result<(), Error> {
        let mut children = HashSet::new();
        let images = promoter.state.images.each(">", |_, entry| {
            let image = entry.map(|entry| entry.value);
            let image = image.filter(|image| self.digests.contains(&short(&image.digest)));
            children.extend(image.iter().flat_map(of_image));
            ControlFlow::Continue(())
        });
        images.await?;
        self.digests.extend(children);
        Ok(())
    }

    /// Says whether a digest exists nowhere, also by what was written since.
    pub(super) async fn lacks(&mut self, promoter: &Promoter, digest: &str) -> Result<bool, Error> {
        if self.digests.contains(&short(digest)) {
            return Ok(false);
        }
        self.catch_up(promoter).await?;
        Ok(!self.digests.contains(&short(digest)))
    }

    async fn catch_up(&mut self, promoter: &Promoter) -> Result<(), Error> {
        let state = &promoter.state;
        let ([tags, upstream, decisions], before) = (self.read, self.before);
        let (mut digests, mut named) = (Vec::new(), Vec::new());
        let tags = newer(&state.tags, ">", tags, |tag: &TagEntry| {
            digests.extend(of_tag(tag, before));
            named.extend([&tag.digest, claimed(tag)].map(|digest| digest.parse::<Digest>()));
        })
        .await?;
        let upstream = newer(&state.upstream, "*.*", upstream, |tag: &UpstreamTag| {
            digests.extend(of_upstream(tag, before));
            named.push(tag.digest.parse());
        })
        .await?;
        let decisions = newer(&state.decisions, ">", decisions, |decision| {
            digests.extend(of_decision(decision));
        })
        .await?;
        for digest in named.into_iter().flatten() {
            let image = state.images.get(&key::image(&digest)).await?;
            digests.extend(image.iter().flat_map(|image| of_image(&image.value)));
        }
        self.digests.extend(digests);
        self.read = [tags, upstream, decisions];
        Ok(())
    }
}

/// Hands over what was written after a revision; returns up to which it is.
async fn newer<R: Stored>(
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

/// Lists every repository of the registry; nothing if it does not tell.
async fn repositories(promoter: &Promoter) -> Result<Option<BTreeSet<Repository>>, Error> {
    match promoter.registry.repositories(|_| true).await {
        Ok(listed) => Ok(Some(listed.into_iter().collect())),
        Err(error) if error.class() == Class::Permanent => {
            tracing::warn!(%error, "images and verdicts are kept: the registry does not list its repositories");
            Ok(None)
        }
        Err(error) => Err(waited_for(error)),
    }
}

/// Adds what tags name of which the state does not say that.
async fn unknown_tags(
    promoter: &Promoter,
    repository: &Repository,
    found: &mut Vec<(Repository, Digest)>,
) -> Result<(), Error> {
    let listed = match promoter.registry.tags(repository).await {
        Err(error) if error.is_not_found() => return Ok(()),
        listed => listed.map_err(waited_for)?,
    };
    let filter = key::tags_of(repository);
    let known = promoter.state.tags.collect(&filter, |entry| {
        let is_settled = !entry.value.digest.is_empty() && entry.value.claim.is_none();
        is_settled.then_some(())
    });
    let known = known.await?;
    for tag in listed {
        if !known.contains_key(&key::tag(repository, &tag))
            && let Some(digest) = promoter.names(repository, &tag).await?
        {
            found.push((repository.clone(), digest));
        }
    }
    Ok(())
}

/// Returns what a tag names, or is about to; and what it named, as long as that is not long ago.
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
    shorts(named)
}

fn claimed(tag: &TagEntry) -> &str {
    tag.claim.as_ref().map_or("", |claim| &claim.digest)
}

/// Returns what an upstream tag points to, and what it pointed to not long ago.
fn of_upstream(tag: &UpstreamTag, before: DateTime<Utc>) -> Vec<u64> {
    let is_recent = |at| time_from_wire(at).is_none_or(|at| at >= before);
    let moves = tag.history.iter().filter(|one| is_recent(one.at.as_ref()));
    let pending = tag.pending.iter().map(|one| one.digest.as_str());
    let current = (!tag.gone).then_some(tag.digest.as_str());
    shorts(
        moves
            .map(|one| one.digest.as_str())
            .chain(pending)
            .chain(current),
    )
}

fn of_decision(decision: &Decision) -> Vec<u64> {
    let inputs = decision.inputs.iter().map(|input| input.digest.as_str());
    shorts(inputs.chain([decision.digest.as_str()]))
}

fn of_image(image: &ImageEntry) -> Vec<u64> {
    shorts(image.children.iter().map(|child| child.digest.as_str()))
}

fn shorts<'a>(digests: impl IntoIterator<Item = &'a str>) -> Vec<u64> {
    let digests = digests.into_iter().filter(|digest| !digest.is_empty());
    digests.map(short).collect()
}

/// Shortens a digest, or a key that is one.
pub(super) fn short(digest: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(digest.as_bytes());
    hasher.finish()
}
