//! Copies the attachments of an image: signatures, attestations, SBOMs.
//!
//! A source lists them by its referrers API or under a tag named after the digest; cosign uses such tags too. A listing is a
//! hint: a referrer must name its subject itself. A target without the API gets a listing under that tag, as a running
//! Sluice writes it (OCI distribution specification 1.1). Attachments that others have added at the target stay.

use std::collections::BTreeSet;
use std::fmt::Display;

use sluice_domain::{Class, Classify as _, Digest, RemoteRepository, Tag};
use sluice_registry::{Client, Content, Destination, Error, Manifest, ManifestRef};

use crate::attachment_cache::AttachmentCache;
use crate::clients::Side;
use crate::image::{Image, Target};
use crate::image_copier::{ImageCopier, ManifestCopy};
use crate::outcome::{AttachmentOutcome, CopyOutcome};

/// The maximum number of attachments of one image; others are skipped.
const MAX_ATTACHMENTS: usize = 512;
/// The maximum size of the blobs of one attachment.
const MAX_BYTES: u64 = 512 << 20;

/// Copies the attachments of an image that is at its target, and adds them to its outcome.
pub(crate) async fn copy_attachments(
    transfer: &ImageCopier,
    cache: &AttachmentCache,
    source: &Client,
    image: &Image,
    outcome: &mut CopyOutcome,
) -> anyhow::Result<()> {
    let Target::Registry(target) = &image.target else {
        return Ok(());
    };
    if let Some(tag) = &image.tag
        && tag.attached_to().is_some()
    {
        return Ok(());
    }
    let client = transfer.clients.client(Side::Destination, &target.host)?;
    let copy = AttachmentCopy {
        transfer,
        cache,
        image,
        source,
        client: &client,
        target,
    };
    copy.run(&outcome.digest, &mut outcome.attachments).await
}

/// The copy of the attachments of one image.
struct AttachmentCopy<'a> {
    transfer: &'a ImageCopier,
    cache: &'a AttachmentCache,
    image: &'a Image,
    source: &'a Client,
    /// The client of the target.
    client: &'a Client,
    target: &'a RemoteRepository,
}

/// The referrers that a target lists for a manifest.
enum TargetReferrers {
    /// By its API.
    Api(Vec<Digest>),
    /// Under the referrers tag, if it exists.
    Tag(Option<Box<Manifest>>),
    /// Not at all: the referrers tag names something else.
    TagInUse,
}

impl TargetReferrers {
    fn has(&self, digest: &Digest) -> bool {
        match self {
            Self::Api(digests) => digests.contains(digest),
            Self::Tag(list) => {
                let mut entries = list.iter().flat_map(|list| list.children());
                entries.any(|entry| entry.digest == *digest)
            }
            Self::TagInUse => false,
        }
    }
}

impl AttachmentCopy<'_> {
    /// Copies the attachments of a digest, and the attachments of these.
    async fn run(&self, digest: &Digest, outcome: &mut AttachmentOutcome) -> anyhow::Result<()> {
        let mut level = self.subjects(digest).await?;
        let (mut seen, mut found) = (level.iter().cloned().collect::<BTreeSet<_>>(), 0);
        for _ in 0..Tag::ATTACHMENT_DEPTH {
            let mut next = Vec::new();
            for subject in &level {
                let mut present = self.copy_subject(subject, outcome).await?;
                present.retain(|digest| seen.insert(digest.clone()));
                found += present.len();
                next.append(&mut present);
                if found >= MAX_ATTACHMENTS {
                    let reason = format!("the image has {MAX_ATTACHMENTS} attachments or more");
                    outcome.skip("further attachments", reason);
                    return Ok(());
                }
            }
            level = next;
        }
        Ok(())
    }

    /// Returns the subjects at the source: the manifest and its children, without a filtered index, which only the target has.
    async fn subjects(&self, digest: &Digest) -> anyhow::Result<Vec<Digest>> {
        let planned = match &self.transfer.estimator {
            Some(estimator) => estimator.lock().await.manifest(digest).cloned(),
            None => None,
        };
        let manifest = match planned {
            Some(manifest) => manifest,
            None => {
                let reference = digest.into();
                let manifest = self
                    .client
                    .fetch_manifest(&self.target.repository, &reference);
                manifest.await?
            }
        };
        let is_filtered = !self.image.platforms.is_all() && manifest.filtered_from().is_some();
        let top = (!is_filtered).then(|| digest.clone());
        let images = manifest.children().iter();
        let images = images.filter(|child| !child.is_marked_attestation());
        Ok(top
            .into_iter()
            .chain(images.map(|child| child.digest.clone()))
            .collect())
    }

    /// Copies the attachments of a manifest; returns those that are at the target then.
    async fn copy_subject(
        &self,
        subject: &Digest,
        outcome: &mut AttachmentOutcome,
    ) -> anyhow::Result<Vec<Digest>> {
        let lock = self.cache.subject(self.target, subject);
        let mut done = lock.lock().await;
        let (from, image) = (&self.image.source, self.image.to_string());
        if done.get(from).is_some_and(|other| *other != image) {
            return Ok(Vec::new());
        }
        let mut present = self.copy_referrers(subject, outcome).await?;
        present.extend(self.copy_cosign_tags(subject, outcome).await?);
        done.insert(from.clone(), image);
        Ok(present)
    }

    /// Copies the referrers of a manifest.
    async fn copy_referrers(
        &self,
        subject: &Digest,
        outcome: &mut AttachmentOutcome,
    ) -> anyhow::Result<Vec<Digest>> {
        let Some(tag) = Tag::attachments_of(subject).find(Tag::is_list) else {
            return Ok(Vec::new());
        };
        let listed = self.list_at_source(subject, &tag, outcome).await?;
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        let at_target = self.list_at_target(subject, &tag).await?;
        if matches!(at_target, TargetReferrers::TagInUse) {
            outcome.skip(&tag, "the destination uses this tag for something else");
            return Ok(Vec::new());
        }
        let (mut present, mut new, mut failure) = (Vec::new(), Vec::new(), None);
        for digest in listed {
            if at_target.has(&digest) {
                present.push(digest);
                continue;
            }
            // An earlier run may have copied it and ended before it was listed.
            if let Some(stored) = self.fetch_stored(&at_target, subject, &digest).await? {
                present.push(digest);
                new.push(stored);
                continue;
            }
            match self.copy_referrer(subject, &digest, outcome).await {
                Ok(Some(manifest)) => {
                    present.push(digest);
                    new.push(manifest);
                }
                Ok(None) => {}
                Err(error) => {
                    let is_permanent = is_permanent(&error);
                    failure.get_or_insert(error);
                    if !is_permanent {
                        break;
                    }
                }
            }
        }
        // Copied referrers are listed even if others failed.
        if !self.transfer.is_dry_run() && !new.is_empty() {
            self.write_referrers_tag(subject, &tag, at_target, new)
                .await?;
        }
        failure.map_or(Ok(present), Err)
    }

    /// Returns a referrer that a target with an API has and does not list; reading it there is not a counted pull.
    async fn fetch_stored(
        &self,
        at_target: &TargetReferrers,
        subject: &Digest,
        digest: &Digest,
    ) -> Result<Option<Manifest>, Error> {
        if !matches!(at_target, TargetReferrers::Api(_)) {
            return Ok(None);
        }
        let reference = digest.into();
        let read = self
            .client
            .fetch_manifest(&self.target.repository, &reference);
        match read.await {
            Ok(manifest) if manifest.subject().as_ref() == Some(subject) => Ok(Some(manifest)),
            // A manifest with another subject is skipped once the source was read too.
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the referrers that the source lists by its API and under the referrers tag.
    async fn list_at_source(
        &self,
        subject: &Digest,
        tag: &Tag,
        outcome: &mut AttachmentOutcome,
    ) -> anyhow::Result<BTreeSet<Digest>> {
        let from = &self.image.source;
        let mut listed = BTreeSet::new();
        if self.has_tag(tag).await? {
            match self
                .source
                .fetch_manifest(&from.repository, &tag.into())
                .await
            {
                Ok(list) => {
                    if self.transfer.is_dry_run() {
                        outcome.plan_read(&list.digest);
                    }
                    listed.extend(list.children().iter().map(|entry| entry.digest.clone()));
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => skip_permanent(outcome, tag, error)?,
            }
        }
        if self.cache.has_referrers_api(from) {
            match self.source.list_referrers(&from.repository, subject).await {
                Ok(Some(entries)) => listed.extend(entries.into_iter().map(|entry| entry.digest)),
                Ok(None) => self.cache.set_without_referrers(from),
                Err(error) => {
                    skip_permanent(outcome, "the referrers of its registry", error)?;
                    self.cache.set_without_referrers(from);
                }
            }
        }
        Ok(listed)
    }

    /// Tells whether the source has a tag that is named after a digest.
    async fn has_tag(&self, tag: &Tag) -> anyhow::Result<bool> {
        let from = &self.image.source;
        let cell = self.cache.tags(from);
        let tags = cell.get_or_try_init(|| async {
            let tags = match self.source.list_tags(&from.repository).await {
                // A repository with untagged images only may answer 404.
                Err(error) if error.is_not_found() => Vec::new(),
                other => other?,
            };
            let named = tags.into_iter().filter(|tag| tag.attached_to().is_some());
            Ok::<_, Error>(named.collect())
        });
        Ok(tags.await?.contains(tag))
    }

    async fn list_at_target(&self, subject: &Digest, tag: &Tag) -> Result<TargetReferrers, Error> {
        let repository = &self.target.repository;
        match self.client.list_referrers(repository, subject).await? {
            Some(listed) => {
                let digests = listed.into_iter().map(|entry| entry.digest);
                Ok(TargetReferrers::Api(digests.collect()))
            }
            None => self.fetch_referrers_tag(tag).await,
        }
    }

    async fn fetch_referrers_tag(&self, tag: &Tag) -> Result<TargetReferrers, Error> {
        let reference = tag.into();
        let read = self
            .client
            .fetch_manifest(&self.target.repository, &reference);
        match read.await {
            Ok(list) if matches!(list.content, Content::Index { .. }) => {
                Ok(TargetReferrers::Tag(Some(list.into())))
            }
            Ok(_) => Ok(TargetReferrers::TagInUse),
            Err(error) if error.is_not_found() => Ok(TargetReferrers::Tag(None)),
            Err(error) => Err(error),
        }
    }

    /// Lists copied referrers under the referrers tag, unless the target lists them itself.
    async fn write_referrers_tag(
        &self,
        subject: &Digest,
        tag: &Tag,
        mut at_target: TargetReferrers,
        mut new: Vec<Manifest>,
    ) -> Result<(), Error> {
        let repository = &self.target.repository;
        if let TargetReferrers::Api(_) = at_target {
            let listed = self.client.list_referrers(repository, subject).await?;
            let listed: BTreeSet<Digest> = listed
                .into_iter()
                .flatten()
                .map(|entry| entry.digest)
                .collect();
            new.retain(|manifest| !listed.contains(&manifest.digest));
            if new.is_empty() {
                return Ok(());
            }
            at_target = self.fetch_referrers_tag(tag).await?;
        }
        if let TargetReferrers::Tag(before) = at_target
            && let Some(list) = Manifest::add_referrers(before.as_deref(), &new)?
        {
            let reference = tag.into();
            let write = self.client.put_manifest(repository, &reference, &list);
            write.await?;
        }
        Ok(())
    }

    /// Copies a referrer that names its subject itself.
    async fn copy_referrer(
        &self,
        subject: &Digest,
        digest: &Digest,
        outcome: &mut AttachmentOutcome,
    ) -> anyhow::Result<Option<Manifest>> {
        let from = &self.image.source.repository;
        let manifest = match self.source.fetch_manifest(from, &digest.into()).await {
            Ok(manifest) => manifest,
            Err(error) => {
                skip_permanent(outcome, digest, error)?;
                return Ok(None);
            }
        };
        if manifest.subject().as_ref() != Some(subject) {
            let reason = format!("listed as a referrer of {subject}, but has another subject");
            self.skip_read(outcome, digest, digest, &reason);
            return Ok(None);
        }
        let is_copied = self.copy(&manifest, None, outcome).await?;
        Ok(is_copied.then_some(manifest))
    }

    /// Copies what cosign stored under tags that are named after a manifest.
    async fn copy_cosign_tags(
        &self,
        subject: &Digest,
        outcome: &mut AttachmentOutcome,
    ) -> anyhow::Result<Vec<Digest>> {
        let mut present = Vec::new();
        for tag in Tag::attachments_of(subject).filter(|tag| !tag.is_list()) {
            if self.has_tag(&tag).await? {
                present.extend(self.copy_cosign_tag(&tag, outcome).await?);
            }
        }
        Ok(present)
    }

    async fn copy_cosign_tag(
        &self,
        tag: &Tag,
        outcome: &mut AttachmentOutcome,
    ) -> anyhow::Result<Option<Digest>> {
        let (from, to) = (&self.image.source.repository, &self.target.repository);
        let reference = ManifestRef::from(tag);
        let (wanted, at_target) = tokio::join!(
            self.source.head(from, &reference),
            self.client.head(to, &reference)
        );
        let at_target = at_target?.map(|head| head.digest);
        let wanted = match wanted {
            Ok(Some(head)) => head.digest,
            Ok(None) => return Ok(None),
            Err(error) => {
                skip_permanent(outcome, tag, error)?;
                return Ok(None);
            }
        };
        if at_target.as_ref() == Some(&wanted) {
            return Ok(at_target);
        }
        let manifest = match self.source.fetch_manifest(from, &(&wanted).into()).await {
            Ok(manifest) => manifest,
            Err(error) => {
                skip_permanent(outcome, tag, error)?;
                return Ok(None);
            }
        };
        if let Some(at_target) = at_target {
            let at_target = self.client.fetch_manifest(to, &(&at_target).into()).await?;
            if !extends(&at_target, &manifest) {
                let reason = "the destination has something else under this tag";
                self.skip_read(outcome, &wanted, tag, reason);
                return Ok(None);
            }
        }
        let is_copied = self.copy(&manifest, Some(tag), outcome).await?;
        Ok(is_copied.then_some(wanted))
    }

    /// Skips a manifest that had to be fetched to decide that.
    fn skip_read(
        &self,
        outcome: &mut AttachmentOutcome,
        digest: &Digest,
        what: impl Display,
        reason: &str,
    ) {
        if self.transfer.is_dry_run() {
            outcome.plan_read(digest);
        }
        outcome.skip(what, reason);
    }

    /// Copies an attachment, or estimates that; false if it is too large.
    async fn copy(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        outcome: &mut AttachmentOutcome,
    ) -> anyhow::Result<bool> {
        let digest = &manifest.digest;
        let sizes = manifest.blobs().map(|blob| blob.size);
        let bytes = sizes.fold(0_u64, u64::saturating_add);
        if bytes > MAX_BYTES {
            let reason = format!("its blobs have {bytes} bytes, more than {MAX_BYTES}");
            self.skip_read(outcome, digest, digest, &reason);
            return Ok(false);
        }
        let copy = ManifestCopy {
            name: format!("{}@{digest}", self.image.source),
            source: (self.source, &self.image.source.repository),
            destination: Destination {
                registry: Some(self.client),
                repository: &self.target.repository,
            },
            digest,
            tag: tag.cloned(),
            manifest: Some(manifest.clone()),
            max_bytes: Some(MAX_BYTES),
        };
        let work = self.transfer.copy(copy).await?;
        outcome.add(digest, work);
        Ok(true)
    }
}

/// Skips an attachment after a permanent error; returns other errors.
fn skip_permanent(
    outcome: &mut AttachmentOutcome,
    what: impl Display,
    error: Error,
) -> anyhow::Result<()> {
    let error = anyhow::Error::from(error);
    if !is_permanent(&error) {
        return Err(error);
    }
    outcome.skip(what, format!("{error:#}"));
    Ok(())
}

fn is_permanent(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<Error>();
    error.is_some_and(|error| matches!(error.class(), Class::Permanent))
}

/// Tells whether a manifest has all layers of another one: cosign appends to its manifests.
fn extends(before: &Manifest, after: &Manifest) -> bool {
    let Content::Image { layers, .. } = &before.content else {
        return false;
    };
    let has = |digest: &Digest| after.blobs().any(|blob| blob.digest == *digest);
    !layers.is_empty() && layers.iter().all(|layer| has(&layer.digest))
}
