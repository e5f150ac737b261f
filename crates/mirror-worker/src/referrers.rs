//! What an upstream lists as referrers of an image, where it has an API for that: it is brought after the image.
//!
//! No poll asks for it, because that takes a request for each manifest: it is asked for after a move, and with every audit.
//! Here it is listed under the tag that is named after its subject, whatever this registry can list itself, so that it
//! follows the image from there as everything does that is attached to it. None of it holds up the image.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::{Cause, Outcome};
use sluice_domain::{Class, Classify as _, Digest, RemoteRepository, Tag};
use sluice_events::EventId;
use sluice_events::commands::MirrorTag;
use sluice_events::facts::{TagMirrored, UpstreamTagMoved};
use sluice_events::wire::state::TagEntry;
use sluice_registry::{Client, CopyJob, CopyOptions, Manifest};
use sluice_state::{
    AlwaysCurrent, Applied, IfUnchanged, PlatformSubset, Provenance, Snapshot, TagChange, describe,
    key, source_of,
};

use crate::mirror::{Error, MirrorWorker};

/// The most referrers of one image, all together.
const MAX_REFERRERS: usize = 512;
/// The most bytes of one thing that is attached to an image.
pub(crate) const MAX_BYTES: u64 = 512 << 20;
/// When a repository is asked again that had no list of referrers.
const ASK_AGAIN: TimeDelta = TimeDelta::hours(20);

/// The upstream repositories without a referrers list, each with the time when it is asked again.
#[derive(Debug, Default)]
pub(crate) struct ReferrersUnsupported(Mutex<HashMap<RemoteRepository, DateTime<Utc>>>);

impl ReferrersUnsupported {
    fn has(&self, repository: &RemoteRepository) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = sluice_domain::now();
        known.retain(|_, until| *until > now);
        known.contains_key(repository)
    }

    fn note(&self, repository: &RemoteRepository) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(repository.clone(), sluice_domain::now() + ASK_AGAIN);
    }
}

impl MirrorWorker {
    /// Adds to what follows from a move that its referrers are looked for, by a message of their own.
    pub(crate) fn with_referrers(&self, outcome: Outcome, fact: &UpstreamTagMoved) -> Outcome {
        if fact.tag.attached_to().is_some() || self.unlisting.has(&fact.source) {
            return outcome;
        }
        let command = MirrorTag {
            mirror: fact.mirror.clone(),
            tag: fact.tag.clone(),
            move_number: fact.move_number,
            damaged: false,
            referrers: true,
            urgent: fact.urgent,
        };
        let UpstreamTagMoved {
            mirror,
            tag,
            move_number,
            digest,
            ..
        } = fact;
        let id = format!("referrers/{mirror}/{tag}/{move_number}/{digest}");
        outcome.command(command, EventId::random(), id)
    }

    /// Brings the referrers of an image that is here; what cannot be had is left to the next audit.
    pub(crate) async fn referrers_or_told(
        &self,
        catalog: &Snapshot,
        fact: &UpstreamTagMoved,
        held: &TagEntry,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        let error = match self.bring_referrers(catalog, fact, held).await {
            Ok(outcome) => return Ok(outcome),
            Err(error) => error,
        };
        if matches!(error, Error::State(_)) || !cause.is_final(error.class()) {
            return Err(error);
        }
        tracing::warn!(%error, image.repository = %fact.repository, image.tag = %fact.tag, "its referrers cannot be brought; the next audit tries again");
        Ok(Outcome::done())
    }

    async fn bring_referrers(
        &self,
        catalog: &Snapshot,
        fact: &UpstreamTagMoved,
        held: &TagEntry,
    ) -> Result<Outcome, Error> {
        let mut outcome = Outcome::done();
        if self.unlisting.has(&fact.source) {
            return Ok(outcome);
        }
        let source = self.source(catalog, fact)?;
        let mut level = self.subjects(held).await?;
        let mut seen: BTreeSet<Digest> = level.iter().cloned().collect();
        for _ in 0..Tag::ATTACHMENT_DEPTH {
            let mut next = Vec::new();
            for subject in &level {
                let Some(listed) = self.listed(&source, fact, subject).await? else {
                    return Ok(outcome);
                };
                if seen.len().saturating_add(listed.len()) > MAX_REFERRERS {
                    tracing::warn!(image.repository = %fact.repository, image.tag = %fact.tag, "it has more than 512 referrers; the others are left");
                    return Ok(outcome);
                }
                next.extend(
                    listed
                        .iter()
                        .filter(|digest| seen.insert((*digest).clone()))
                        .cloned(),
                );
                if let Some(fact) = self.add(&source, fact, subject, &listed).await? {
                    let occurrence = format!("referrers/{}", fact.digest);
                    outcome = outcome.fact_at(fact, occurrence);
                }
            }
            level = next;
        }
        Ok(outcome)
    }

    /// Returns the manifests to which upstream something may refer: of a part, not the part itself.
    async fn subjects(&self, held: &TagEntry) -> Result<Vec<Digest>, Error> {
        let mut subjects = Vec::new();
        if let (true, Ok(digest)) = (held.source_digest.is_empty(), held.digest.parse()) {
            subjects.push(digest);
        }
        let Ok(digest) = held.digest.parse() else {
            return Ok(subjects);
        };
        let image = self.state.images.get(&key::image(&digest)).await?;
        let children = image.map(|image| image.value.children).unwrap_or_default();
        for child in children.iter().filter(|child| !child.attestation) {
            if let Ok(digest) = child.digest.parse()
                && !subjects.contains(&digest)
            {
                subjects.push(digest);
            }
        }
        Ok(subjects)
    }

    /// Returns what upstream lists; nothing if it lists none at all, which is remembered.
    async fn listed(
        &self,
        source: &Client,
        fact: &UpstreamTagMoved,
        subject: &Digest,
    ) -> Result<Option<Vec<Digest>>, Error> {
        match source.referrers(&fact.source.repository, subject).await {
            Ok(Some(listed)) => {
                let digests = listed.into_iter().map(|listed| listed.digest);
                let digests = digests.filter(|digest| digest != subject).collect();
                Ok(Some(digests))
            }
            Ok(None) => {
                self.unlisting.note(&fact.source);
                Ok(None)
            }
            Err(error) if matches!(error.class(), Class::Permanent) => {
                tracing::warn!(%error, "what refers to images there cannot be told; it is asked again tomorrow");
                self.unlisting.note(&fact.source);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the list of referrers here, if it is what the state says.
    async fn list_here(
        &self,
        fact: &UpstreamTagMoved,
        tag: &Tag,
    ) -> Result<(Option<Manifest>, Option<TagEntry>), Error> {
        let key = key::tag(&fact.repository, tag);
        let entry = self.state.tags.get(&key).await?.map(|entry| entry.value);
        match self.registry.manifest(&fact.repository, &tag.into()).await {
            Ok(list) => Ok((Some(list), entry)),
            Err(error) if error.is_not_found() => Ok((None, entry)),
            Err(error) => Err(error.into()),
        }
    }

    /// Brings those referrers of a manifest that are not listed here, and lists them.
    async fn add(
        &self,
        source: &Client,
        fact: &UpstreamTagMoved,
        subject: &Digest,
        listed: &[Digest],
    ) -> Result<Option<TagMirrored>, Error> {
        let Some(tag) = Tag::attachments_of(subject).find(Tag::is_list) else {
            return Ok(None);
        };
        if listed.is_empty() {
            return Ok(None);
        }
        let repository = &fact.repository;
        let (before, entry) = self.list_here(fact, &tag).await?;
        let here = before.as_ref().map(Manifest::children).unwrap_or_default();
        let mut brought = Vec::new();
        for digest in listed {
            if here.iter().any(|there| there.digest == *digest) {
                continue;
            }
            match self.bring(source, fact, subject, digest).await {
                Ok(referrer) => brought.extend(referrer),
                Err(error) if matches!(error.class(), Class::Permanent) => {
                    tracing::warn!(%error, image.repository = %repository, image.digest = %digest, "a referrer is left out");
                }
                Err(error) => return Err(error.into()),
            }
        }
        let Some(after) = Manifest::listing(before.as_ref(), &brought)? else {
            return Ok(None);
        };
        let reference = (&after.digest).into();
        self.registry
            .put_manifest(repository, &reference, &after)
            .await?;
        let image = describe(&self.state, &self.registry, repository, &after.digest).await?;
        let entry = entry.unwrap_or_default();
        let change = TagChange {
            repository,
            tag: &tag,
            wanted: Some(&after),
            provenance: Provenance {
                by: "mirror-worker".to_owned(),
                mirror: fact.mirror.to_string(),
                move_number: entry.move_number,
                promotion: None,
                // What upstream has under the tag, if it does, is part of the list.
                part: PlatformSubset {
                    source: source_of(&entry)
                        .parse()
                        .ok()
                        .filter(|_| entry.move_number > 0),
                    platforms: String::new(),
                },
            },
            precondition: &IfUnchanged {
                precondition: &AlwaysCurrent,
                registry: &self.registry,
                repository,
                tag: &tag,
                before: before.as_ref().map(|before| &before.digest),
                after: &after.digest,
            },
        };
        let Applied::Settled { .. } = self.tags.apply(&change).await? else {
            return Ok(None);
        };
        tracing::info!(image.repository = %repository, image.tag = %tag, referrers = brought.len(), "listed what refers to an image");
        Ok(Some(TagMirrored {
            mirror: fact.mirror.clone(),
            source: fact.source.clone(),
            repository: repository.clone(),
            source_digest: change.provenance.part.source.clone(),
            tag: tag.clone(),
            digest: after.digest.clone(),
            media_type: after.media_type.clone(),
            size_bytes: image.size_bytes,
            blobs_copied: 0,
            blobs_mounted: 0,
            blobs_skipped: 0,
            bytes_copied: 0,
            move_number: entry.move_number,
        }))
    }

    /// Brings a referrer that says itself what it refers to; what upstream lists is no more than a hint.
    async fn bring(
        &self,
        source: &Client,
        fact: &UpstreamTagMoved,
        subject: &Digest,
        digest: &Digest,
    ) -> Result<Option<Manifest>, sluice_registry::Error> {
        let from = &fact.source.repository;
        let manifest = source.manifest(from, &digest.into()).await?;
        if manifest.subject().as_ref() != Some(subject) {
            tracing::warn!(image.repository = %fact.repository, image.digest = %digest, %subject, "what is listed as a referrer refers to something else");
            return Ok(None);
        }
        let job = CopyJob {
            source,
            source_repository: from,
            digest,
            target: &self.registry,
            target_repository: &fact.repository,
            siblings: &[],
        };
        let options = CopyOptions {
            limits: Some(self.limits.clone()),
            top: Some(manifest),
            most_bytes: Some(MAX_BYTES),
            ..CopyOptions::default()
        };
        Ok(Some(job.run_with(&options).await?.top))
    }

    /// Says whether upstream lists referrers of an image that are not listed here.
    pub(crate) async fn lacks_referrers(
        &self,
        catalog: &Snapshot,
        fact: &UpstreamTagMoved,
        held: &TagEntry,
    ) -> Result<bool, Error> {
        if fact.tag.attached_to().is_some() || self.unlisting.has(&fact.source) {
            return Ok(false);
        }
        let source = self.source(catalog, fact)?;
        for subject in self.subjects(held).await? {
            let Some(listed) = self.listed(&source, fact, &subject).await? else {
                return Ok(false);
            };
            let tag = Tag::attachments_of(&subject).find(Tag::is_list);
            let Some(tag) = tag.filter(|_| !listed.is_empty()) else {
                continue;
            };
            let (here, _) = self.list_here(fact, &tag).await?;
            let here = here.as_ref().map(Manifest::children).unwrap_or_default();
            let is_here = |digest: &Digest| here.iter().any(|there| there.digest == *digest);
            if !listed.iter().all(is_here) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
