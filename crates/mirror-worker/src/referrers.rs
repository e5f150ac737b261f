//! What an upstream lists as referrers of an image, where it has an API for that: it is brought after the image.
//!
//! Here they are listed under the tag that is named after their subject, whatever this registry has, so that they follow
//! the image from there as everything does that is attached to it.

use std::collections::HashSet;

use sluice_domain::{Digest, Repository, Tag};
use sluice_events::facts::UpstreamTagMoved;
use sluice_registry::{Client, CopyJob, Manifest, Referrer};
use sluice_state::{
    Applied, Provenance, Snapshot, Standing, TagChange, Truth, describe, key,
};

use crate::mirror::{Error, MirrorWorker};

/// What refers to an image may be referred to itself, and that too; then it is enough.
const MAX_DEPTH: usize = 2;
/// The most referrers of one image, all together.
const MAX_REFERRERS: usize = 512;
/// How often a list is made anew that somebody else changes at the same time.
const ROUNDS: usize = 5;

/// A list of referrers may be written over only if it is what was added to.
struct Unchanged<'a> {
    registry: &'a Client,
    repository: &'a Repository,
    tag: &'a Tag,
    before: Option<&'a Digest>,
    after: &'a Digest,
}

impl Truth for Unchanged<'_> {
    async fn standing(&self) -> Result<Standing, sluice_state::Error> {
        let head = self.registry.head(self.repository, &self.tag.into()).await?;
        let there = head.map(|head| head.digest);
        let is_current = there.as_ref() == self.before || there.as_ref() == Some(self.after);
        Ok(if is_current {
            Standing::Current
        } else {
            Standing::Superseded
        })
    }
}

impl MirrorWorker {
    /// Brings the referrers of an image and of its manifests.
    pub(crate) async fn bring_referrers(
        &self,
        catalog: &Snapshot,
        fact: &UpstreamTagMoved,
        top: &Manifest,
    ) -> Result<(), Error> {
        if fact.tag.attached_to().is_some() {
            return Ok(());
        }
        let upstream = fact.source.to_string();
        if self.without_referrers.lock().is_ok_and(|known| known.contains(&upstream)) {
            return Ok(());
        }
        let source = self.source(catalog, fact)?;
        let from = &fact.source.repository;
        let mut level: Vec<Digest> = top.children().iter().map(|child| child.digest.clone()).collect();
        level.insert(0, top.digest.clone());
        let mut seen: HashSet<Digest> = level.iter().cloned().collect();
        for _ in 0..MAX_DEPTH {
            let mut next = Vec::new();
            for subject in &level {
                let Some(listed) = source.referrers(from, subject).await? else {
                    if let Ok(mut known) = self.without_referrers.lock() {
                        known.insert(upstream);
                    }
                    return Ok(());
                };
                for referrer in &listed {
                    let digest = &referrer.descriptor.digest;
                    if seen.insert(digest.clone()) {
                        self.bring_referrer(&source, fact, digest).await?;
                        next.push(digest.clone());
                    }
                }
                if seen.len() > MAX_REFERRERS {
                    tracing::warn!(image.repository = %fact.repository, image.tag = %fact.tag, "it has more than 512 referrers; the others are left");
                    return Ok(());
                }
                self.list_referrers(fact, subject, &listed).await?;
            }
            level = next;
        }
        Ok(())
    }

    async fn bring_referrer(
        &self,
        source: &Client,
        fact: &UpstreamTagMoved,
        digest: &Digest,
    ) -> Result<(), Error> {
        let job = CopyJob {
            source,
            source_repository: &fact.source.repository,
            digest,
            target: &self.registry,
            target_repository: &fact.repository,
            siblings: &[],
        };
        job.run().await?;
        Ok(())
    }

    /// Adds referrers to the list under the tag that is named after their subject.
    async fn list_referrers(
        &self,
        fact: &UpstreamTagMoved,
        subject: &Digest,
        referrers: &[Referrer],
    ) -> Result<(), Error> {
        let Some(tag) = Tag::attachments_of(subject).next() else {
            return Ok(());
        };
        // Where upstream has such a list under a tag too, that is mirrored as it is.
        let key = key::upstream(&fact.mirror, &tag);
        if referrers.is_empty() || self.state.upstream.get(&key).await?.is_some() {
            return Ok(());
        }
        let repository = &fact.repository;
        for _ in 0..ROUNDS {
            let before = match self.registry.manifest(repository, &(&tag).into()).await {
                Err(error) if error.is_not_found() => None,
                found => Some(found?),
            };
            let Some(after) = Manifest::listing(before.as_ref(), referrers)? else {
                return Ok(());
            };
            let reference = (&after.digest).into();
            self.registry.put_manifest(repository, &reference, &after).await?;
            describe(&self.state, &self.registry, repository, &after.digest).await?;
            let truth = Unchanged {
                registry: &self.registry,
                repository,
                tag: &tag,
                before: before.as_ref().map(|before| &before.digest),
                after: &after.digest,
            };
            let change = TagChange {
                repository,
                tag: &tag,
                wanted: Some(&after),
                provenance: Provenance {
                    by: "mirror-worker".to_owned(),
                    mirror: fact.mirror.to_string(),
                    ..Provenance::default()
                },
                truth: &truth,
            };
            if let Applied::Settled { .. } = self.tags.apply(&change).await? {
                return Ok(());
            }
        }
        Err(sluice_state::Error::Restless {
            tag: format!("{repository}:{tag}"),
        }
        .into())
    }
}
