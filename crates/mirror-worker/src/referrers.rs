//! Copies the referrers that an upstream lists for an image, after the image.
//!
//! No poll checks them, because that takes a request for each manifest: they are copied after a move, and every audit
//! checks them. Here they are listed under the tag that is named after their subject, whether or not this registry has
//! a referrers API, so that they follow the image as every attachment does. A failure does not hold up the image.

pub(crate) mod unsupported;

use std::collections::BTreeSet;

use sluice_bus::{Cause, Outcome};
use sluice_domain::{Class, Classify as _, Digest, Tag};
use sluice_events::EventId;
use sluice_events::facts::TagMirrored;
use sluice_events::wire::state::TagEntry;
use sluice_registry::{Client, CopyJob, CopyOptions, Manifest};
use sluice_state::{
    AlwaysCurrent, IfUnchanged, PlatformSubset, Provenance, Snapshot, TagChange, TagChangeOutcome,
    describe, key, source_of,
};

use crate::error::Error;
use crate::handler::MirrorWorker;
use crate::mirror::copy::MAX_ATTACHMENT_BYTES;
use crate::mirror::task::{MirrorReason, MirrorTask, NAME};

/// The most referrers of one image.
const MAX_REFERRERS: usize = 512;

impl MirrorWorker {
    /// Adds the command to copy the referrers of a mirrored image, as a message of its own.
    pub(crate) fn with_referrers(&self, outcome: Outcome, task: &MirrorTask) -> Outcome {
        if task.tag.attached_to().is_some() || self.without_referrers.contains(&task.source) {
            return outcome;
        }
        let MirrorTask {
            mirror,
            tag,
            move_number,
            digest,
            ..
        } = task;
        let id = format!("referrers/{mirror}/{tag}/{move_number}/{digest}");
        outcome.command(task.command(MirrorReason::Referrers), EventId::random(), id)
    }

    /// Copies the referrers of a mirrored image; after a final failure the next audit tries again.
    pub(crate) async fn mirror_referrers(
        &self,
        catalog: &Snapshot,
        task: &MirrorTask,
        entry: &TagEntry,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        match self.copy_referrers(catalog, task, entry).await {
            Err(error) if !matches!(error, Error::State(_)) && cause.is_final(error.class()) => {
                tracing::warn!(%error, image.repository = %task.repository, image.tag = %task.tag, "failed to copy the referrers of an image; the next audit retries");
                Ok(Outcome::done())
            }
            result => result,
        }
    }

    async fn copy_referrers(
        &self,
        catalog: &Snapshot,
        task: &MirrorTask,
        entry: &TagEntry,
    ) -> Result<Outcome, Error> {
        let mut outcome = Outcome::done();
        if self.without_referrers.contains(&task.source) {
            return Ok(outcome);
        }
        let source = self.source(catalog, task)?;
        let mut level = self.subjects(entry).await?;
        let mut seen: BTreeSet<Digest> = level.iter().cloned().collect();
        for _ in 0..Tag::ATTACHMENT_DEPTH {
            let mut next = Vec::new();
            for subject in &level {
                let Some(listed) = self.list_upstream(&source, task, subject).await? else {
                    return Ok(outcome);
                };
                if seen.len().saturating_add(listed.len()) > MAX_REFERRERS {
                    tracing::warn!(image.repository = %task.repository, image.tag = %task.tag, "the image has more than 512 referrers; skipping the others");
                    return Ok(outcome);
                }
                next.extend(
                    listed
                        .iter()
                        .filter(|digest| seen.insert((*digest).clone()))
                        .cloned(),
                );
                if let Some(event) = self
                    .copy_referrers_of(&source, task, subject, &listed)
                    .await?
                {
                    let occurrence = format!("referrers/{}", event.digest);
                    outcome = outcome.fact_at(event, occurrence);
                }
            }
            level = next;
        }
        Ok(outcome)
    }

    /// Returns the manifests that may have referrers upstream: of a filtered index only its children.
    async fn subjects(&self, entry: &TagEntry) -> Result<Vec<Digest>, Error> {
        let mut subjects = Vec::new();
        if let (true, Ok(digest)) = (entry.source_digest.is_empty(), entry.digest.parse()) {
            subjects.push(digest);
        }
        let Ok(digest) = entry.digest.parse() else {
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

    /// Returns the referrers that upstream lists; `None` if it has no list of referrers, which is cached.
    async fn list_upstream(
        &self,
        source: &Client,
        task: &MirrorTask,
        subject: &Digest,
    ) -> Result<Option<Vec<Digest>>, Error> {
        match source
            .list_referrers(&task.source.repository, subject)
            .await
        {
            Ok(Some(listed)) => {
                let digests = listed.into_iter().map(|listed| listed.digest);
                let digests = digests.filter(|digest| digest != subject).collect();
                Ok(Some(digests))
            }
            Ok(None) => {
                self.without_referrers.insert(&task.source);
                Ok(None)
            }
            Err(error) if matches!(error.class(), Class::Permanent) => {
                tracing::warn!(%error, image.repository = %task.source, "failed to list referrers upstream; retrying in 20h");
                self.without_referrers.insert(&task.source);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the list of referrers under a tag here, and the entry of the tag.
    async fn list_local(
        &self,
        task: &MirrorTask,
        tag: &Tag,
    ) -> Result<(Option<Manifest>, Option<TagEntry>), Error> {
        let key = key::tag(&task.repository, tag);
        let entry = self.state.tags.get(&key).await?.map(|entry| entry.value);
        match self
            .registry
            .fetch_manifest(&task.repository, &tag.into())
            .await
        {
            Ok(list) => Ok((Some(list), entry)),
            Err(error) if error.is_not_found() => Ok((None, entry)),
            Err(error) => Err(error.into()),
        }
    }

    /// Copies those referrers of a manifest that are not listed here, and lists them.
    async fn copy_referrers_of(
        &self,
        source: &Client,
        task: &MirrorTask,
        subject: &Digest,
        listed: &[Digest],
    ) -> Result<Option<TagMirrored>, Error> {
        let Some(tag) = Tag::attachments_of(subject).find(Tag::is_list) else {
            return Ok(None);
        };
        if listed.is_empty() {
            return Ok(None);
        }
        let repository = &task.repository;
        let (before, entry) = self.list_local(task, &tag).await?;
        let local = before.as_ref().map(Manifest::children).unwrap_or_default();
        let is_local = |digest: &&Digest| local.iter().any(|child| child.digest == **digest);
        let missing = listed.iter().filter(|digest| !is_local(digest));
        let copied = self.copy_missing(source, task, subject, missing).await?;
        let Some(after) = Manifest::add_referrers(before.as_ref(), &copied)? else {
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
                by: NAME.to_owned(),
                mirror: task.mirror.to_string(),
                move_number: entry.move_number,
                promotion: None,
                // The list includes the one that upstream has under the tag, if it has one.
                subset: PlatformSubset {
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
        let TagChangeOutcome::Done { .. } = self.tags.apply(&change).await? else {
            return Ok(None);
        };
        tracing::info!(image.repository = %repository, image.tag = %tag, referrers = copied.len(), "copied the referrers of an image");
        Ok(Some(TagMirrored {
            mirror: task.mirror.clone(),
            source: task.source.clone(),
            repository: repository.clone(),
            source_digest: change.provenance.subset.source.clone(),
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

    /// Copies referrers, without those that can never be copied.
    async fn copy_missing<'a>(
        &self,
        source: &Client,
        task: &MirrorTask,
        subject: &Digest,
        digests: impl Iterator<Item = &'a Digest>,
    ) -> Result<Vec<Manifest>, Error> {
        let mut copied = Vec::new();
        for digest in digests {
            match self.copy_referrer(source, task, subject, digest).await {
                Ok(referrer) => copied.extend(referrer),
                Err(error) if matches!(error.class(), Class::Permanent) => {
                    tracing::warn!(%error, image.repository = %task.repository, image.digest = %digest, "skipping a referrer that cannot be copied");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(copied)
    }

    /// Copies a referrer whose manifest names the subject; the list of the upstream is only a hint.
    async fn copy_referrer(
        &self,
        source: &Client,
        task: &MirrorTask,
        subject: &Digest,
        digest: &Digest,
    ) -> Result<Option<Manifest>, sluice_registry::Error> {
        let from = &task.source.repository;
        let manifest = source.fetch_manifest(from, &digest.into()).await?;
        if manifest.subject().as_ref() != Some(subject) {
            tracing::warn!(image.repository = %task.repository, image.digest = %digest, %subject, "a listed referrer has another subject; skipping it");
            return Ok(None);
        }
        let job = CopyJob {
            source,
            source_repository: from,
            digest,
            target: &self.registry,
            target_repository: &task.repository,
            siblings: &[],
        };
        let options = CopyOptions {
            limits: Some(self.limits.clone()),
            root: Some(manifest),
            max_blob_bytes: Some(MAX_ATTACHMENT_BYTES),
            ..CopyOptions::default()
        };
        Ok(Some(job.run_with(&options).await?.root))
    }

    /// Says whether upstream lists referrers of an image that are not listed here.
    pub(crate) async fn lacks_referrers(
        &self,
        catalog: &Snapshot,
        task: &MirrorTask,
        entry: &TagEntry,
    ) -> Result<bool, Error> {
        if task.tag.attached_to().is_some() || self.without_referrers.contains(&task.source) {
            return Ok(false);
        }
        let source = self.source(catalog, task)?;
        for subject in self.subjects(entry).await? {
            let Some(listed) = self.list_upstream(&source, task, &subject).await? else {
                return Ok(false);
            };
            let tag = Tag::attachments_of(&subject).find(Tag::is_list);
            let Some(tag) = tag.filter(|_| !listed.is_empty()) else {
                continue;
            };
            let (local, _) = self.list_local(task, &tag).await?;
            let local = local.as_ref().map(Manifest::children).unwrap_or_default();
            let is_local = |digest: &Digest| local.iter().any(|child| child.digest == *digest);
            if !listed.iter().all(is_local) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
