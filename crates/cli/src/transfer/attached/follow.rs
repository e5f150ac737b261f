//! Finds what is attached to an image and brings it, manifest by manifest.

use std::collections::BTreeSet;
use std::fmt::Display;

use sluice_domain::{Class, Classify as _, Digest, RemoteRepository, Tag};
use sluice_registry::{
    Client, Content, CopyJob, CopyOptions, Destination, Error, Manifest, ManifestRef,
};

use super::{Attached, Attachments};
use crate::transfer::board::ImageWatch;
use crate::transfer::{Image, Session, Spent, Work};

/// After this many things that are attached to one image the others are left out.
const MAX_ATTACHED: usize = 512;
/// The most bytes of one of them.
const MAX_BYTES: u64 = 512 << 20;

/// The attachments of one image on their way.
pub(super) struct Following<'a> {
    pub(super) session: &'a Session,
    pub(super) known: &'a Attachments,
    pub(super) image: &'a Image,
    pub(super) source: &'a Client,
    pub(super) destination: &'a Client,
    pub(super) to: &'a RemoteRepository,
}

/// What a destination lists as referrers of a manifest.
enum There {
    /// By its API.
    Api(Vec<Digest>),
    /// Under a tag, if there is such a list.
    Listed(Option<Box<Manifest>>),
    /// Nothing: what is under that tag is no list.
    Taken,
}

impl There {
    fn has(&self, digest: &Digest) -> bool {
        match self {
            Self::Api(digests) => digests.contains(digest),
            Self::Listed(list) => {
                let mut listed = list.iter().flat_map(|list| list.children());
                listed.any(|listed| listed.digest == *digest)
            }
            Self::Taken => false,
        }
    }
}

impl Following<'_> {
    /// Brings everything that is attached to the image, and to that.
    pub(super) async fn follow(
        &self,
        digest: &Digest,
        attached: &mut Attached,
    ) -> anyhow::Result<()> {
        let mut level = self.subjects(digest).await?;
        let (mut seen, mut found) = (level.iter().cloned().collect::<BTreeSet<_>>(), 0);
        for _ in 0..Tag::ATTACHMENT_DEPTH {
            let mut next = Vec::new();
            for subject in &level {
                let mut here = self.of_subject(subject, attached).await?;
                here.retain(|digest| seen.insert(digest.clone()));
                found += here.len();
                next.append(&mut here);
                if found >= MAX_ATTACHED {
                    let reason = format!("it has {MAX_ATTACHED} attachments or more");
                    attached.leave_out("the others", reason);
                    return Ok(());
                }
            }
            level = next;
        }
        Ok(())
    }

    /// Returns the manifests to which something at the source may refer: of a part of an index, not the part itself.
    async fn subjects(&self, digest: &Digest) -> anyhow::Result<Vec<Digest>> {
        let planned = match &self.session.estimator {
            Some(estimator) => estimator.lock().await.known(digest).cloned(),
            None => None,
        };
        let manifest = match planned {
            Some(manifest) => manifest,
            None => {
                let reference = digest.into();
                let read = self.destination.manifest(&self.to.repository, &reference);
                read.await?
            }
        };
        let is_part = !self.image.platforms.is_all() && manifest.part_of().is_some();
        let whole = (!is_part).then(|| digest.clone());
        let images = manifest.children().iter();
        let images = images.filter(|child| !child.is_called_attestation());
        Ok(whole
            .into_iter()
            .chain(images.map(|child| child.digest.clone()))
            .collect())
    }

    /// Brings what is attached to a manifest, and returns all of it that is there then.
    async fn of_subject(
        &self,
        subject: &Digest,
        attached: &mut Attached,
    ) -> anyhow::Result<Vec<Digest>> {
        let turn = self.known.turn(self.to, subject);
        let mut done = turn.lock().await;
        let (from, me) = (&self.image.source, self.image.to_string());
        if done.get(from).is_some_and(|image| *image != me) {
            return Ok(Vec::new());
        }
        let mut here = self.referrers(subject, attached).await?;
        here.extend(self.signatures(subject, attached).await?);
        done.insert(from.clone(), me);
        Ok(here)
    }

    /// Brings what is listed as referrers of a manifest.
    async fn referrers(
        &self,
        subject: &Digest,
        attached: &mut Attached,
    ) -> anyhow::Result<Vec<Digest>> {
        let Some(tag) = Tag::attachments_of(subject).find(Tag::is_list) else {
            return Ok(Vec::new());
        };
        let listed = self.listed(subject, &tag, attached).await?;
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        let there = self.there(subject, &tag).await?;
        if matches!(there, There::Taken) {
            attached.leave_out(
                &tag,
                "what the destination has there is no list of referrers",
            );
            return Ok(Vec::new());
        }
        let (mut here, mut new, mut failure) = (Vec::new(), Vec::new(), None);
        for digest in listed {
            if there.has(&digest) {
                here.push(digest);
                continue;
            }
            // It may be there already, of a run that ended before it was listed.
            if let Some(stored) = self.stored(&there, subject, &digest).await? {
                here.push(digest);
                new.push(stored);
                continue;
            }
            match self.referrer(subject, &digest, attached).await {
                Ok(Some(manifest)) => {
                    here.push(digest);
                    new.push(manifest);
                }
                Ok(None) => {}
                Err(error) => {
                    let goes_on = is_permanent(&error);
                    failure.get_or_insert(error);
                    if !goes_on {
                        break;
                    }
                }
            }
        }
        // What did come is listed whatever else failed.
        if !self.session.is_dry_run() && !new.is_empty() {
            self.list(subject, &tag, there, new).await?;
        }
        failure.map_or(Ok(here), Err)
    }

    /// Returns a referrer that a destination with an API has and does not list; reading it there is no pull.
    async fn stored(
        &self,
        there: &There,
        subject: &Digest,
        digest: &Digest,
    ) -> Result<Option<Manifest>, Error> {
        if !matches!(there, There::Api(_)) {
            return Ok(None);
        }
        let reference = digest.into();
        let read = self.destination.manifest(&self.to.repository, &reference);
        match read.await {
            Ok(manifest) if manifest.subject().as_ref() == Some(subject) => Ok(Some(manifest)),
            // What refers to something else is left out, once the source has shown it too.
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns what the source lists, by its API and under the tag for those without one.
    async fn listed(
        &self,
        subject: &Digest,
        tag: &Tag,
        attached: &mut Attached,
    ) -> anyhow::Result<BTreeSet<Digest>> {
        let from = &self.image.source;
        let mut listed = BTreeSet::new();
        if self.has_tag(tag).await? {
            match self.source.manifest(&from.repository, &tag.into()).await {
                Ok(list) => {
                    if self.session.is_dry_run() {
                        attached.plan_to_read(&list.digest);
                    }
                    listed.extend(list.children().iter().map(|entry| entry.digest.clone()));
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => leave_out(attached, tag, error)?,
            }
        }
        if !self.known.is_unlisting(from) {
            match self.source.referrers(&from.repository, subject).await {
                Ok(Some(entries)) => listed.extend(entries.into_iter().map(|entry| entry.digest)),
                Ok(None) => self.known.unlist(from),
                Err(error) => {
                    leave_out(attached, "what its registry lists as referrers", error)?;
                    self.known.unlist(from);
                }
            }
        }
        Ok(listed)
    }

    /// Says whether the source has a tag that is named after a digest.
    async fn has_tag(&self, tag: &Tag) -> anyhow::Result<bool> {
        let from = &self.image.source;
        let cell = self.known.cell(from);
        let tags = cell.get_or_try_init(|| async {
            let tags = match self.source.tags(&from.repository).await {
                // What is known by digest alone may have no tag at all.
                Err(error) if error.is_not_found() => Vec::new(),
                other => other?,
            };
            let named = tags.into_iter().filter(|tag| tag.attached_to().is_some());
            Ok::<_, Error>(named.collect())
        });
        Ok(tags.await?.contains(tag))
    }

    async fn there(&self, subject: &Digest, tag: &Tag) -> Result<There, Error> {
        let repository = &self.to.repository;
        match self.destination.referrers(repository, subject).await? {
            Some(listed) => {
                let digests = listed.into_iter().map(|entry| entry.digest);
                Ok(There::Api(digests.collect()))
            }
            None => self.list_there(tag).await,
        }
    }

    async fn list_there(&self, tag: &Tag) -> Result<There, Error> {
        let reference = tag.into();
        let read = self.destination.manifest(&self.to.repository, &reference);
        match read.await {
            Ok(list) if matches!(list.content, Content::Index { .. }) => {
                Ok(There::Listed(Some(list.into())))
            }
            Ok(_) => Ok(There::Taken),
            Err(error) if error.is_not_found() => Ok(There::Listed(None)),
            Err(error) => Err(error),
        }
    }

    /// Lists under the tag what was brought, as far as the destination does not list it by itself.
    async fn list(
        &self,
        subject: &Digest,
        tag: &Tag,
        mut there: There,
        mut new: Vec<Manifest>,
    ) -> Result<(), Error> {
        let repository = &self.to.repository;
        if let There::Api(_) = there {
            let listed = self.destination.referrers(repository, subject).await?;
            let listed: BTreeSet<Digest> = listed
                .into_iter()
                .flatten()
                .map(|entry| entry.digest)
                .collect();
            new.retain(|manifest| !listed.contains(&manifest.digest));
            if new.is_empty() {
                return Ok(());
            }
            there = self.list_there(tag).await?;
        }
        if let There::Listed(before) = there
            && let Some(list) = Manifest::listing(before.as_deref(), &new)?
        {
            let reference = tag.into();
            let write = self.destination.put_manifest(repository, &reference, &list);
            write.await?;
        }
        Ok(())
    }

    /// Brings a referrer that says itself what it refers to.
    async fn referrer(
        &self,
        subject: &Digest,
        digest: &Digest,
        attached: &mut Attached,
    ) -> anyhow::Result<Option<Manifest>> {
        let from = &self.image.source.repository;
        let manifest = match self.source.manifest(from, &digest.into()).await {
            Ok(manifest) => manifest,
            Err(error) => {
                leave_out(attached, digest, error)?;
                return Ok(None);
            }
        };
        if manifest.subject().as_ref() != Some(subject) {
            let reason =
                format!("it is listed as a referrer of {subject} and refers to something else");
            self.refuse(attached, digest, digest, &reason);
            return Ok(None);
        }
        let is_brought = self.bring(&manifest, None, attached).await?;
        Ok(is_brought.then_some(manifest))
    }

    /// Brings what cosign put under tags that are named after a manifest.
    async fn signatures(
        &self,
        subject: &Digest,
        attached: &mut Attached,
    ) -> anyhow::Result<Vec<Digest>> {
        let mut here = Vec::new();
        for tag in Tag::attachments_of(subject).filter(|tag| !tag.is_list()) {
            if self.has_tag(&tag).await? {
                here.extend(self.signature(&tag, attached).await?);
            }
        }
        Ok(here)
    }

    async fn signature(
        &self,
        tag: &Tag,
        attached: &mut Attached,
    ) -> anyhow::Result<Option<Digest>> {
        let (from, to) = (&self.image.source.repository, &self.to.repository);
        let reference = ManifestRef::from(tag);
        let (wanted, there) = tokio::join!(
            self.source.head(from, &reference),
            self.destination.head(to, &reference)
        );
        let there = there?.map(|head| head.digest);
        let wanted = match wanted {
            Ok(Some(head)) => head.digest,
            Ok(None) => return Ok(None),
            Err(error) => {
                leave_out(attached, tag, error)?;
                return Ok(None);
            }
        };
        if there.as_ref() == Some(&wanted) {
            return Ok(there);
        }
        let manifest = match self.source.manifest(from, &(&wanted).into()).await {
            Ok(manifest) => manifest,
            Err(error) => {
                leave_out(attached, tag, error)?;
                return Ok(None);
            }
        };
        if let Some(there) = there {
            let there = self.destination.manifest(to, &(&there).into()).await?;
            if !continues(&there, &manifest) {
                let reason = "the destination has something else under this tag, which stays";
                self.refuse(attached, &wanted, tag, reason);
                return Ok(None);
            }
        }
        let is_brought = self.bring(&manifest, Some(tag), attached).await?;
        Ok(is_brought.then_some(wanted))
    }

    /// Leaves out what had to be fetched to know that it is not taken.
    fn refuse(&self, attached: &mut Attached, digest: &Digest, what: impl Display, reason: &str) {
        if self.session.is_dry_run() {
            attached.plan_to_read(digest);
        }
        attached.leave_out(what, reason);
    }

    /// Copies something attached, unless it is too large, or says what that would cost.
    async fn bring(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        attached: &mut Attached,
    ) -> anyhow::Result<bool> {
        let digest = &manifest.digest;
        let sizes = manifest.blobs().map(|blob| blob.size);
        let bytes = sizes.fold(0_u64, u64::saturating_add);
        if bytes > MAX_BYTES {
            let reason = format!("its blobs have {bytes} bytes, more than {MAX_BYTES}");
            self.refuse(attached, digest, digest, &reason);
            return Ok(false);
        }
        let from = (self.source, &self.image.source.repository);
        let work = if let Some(estimator) = &self.session.estimator {
            let mut estimator = estimator.lock().await;
            estimator.know(manifest);
            let destination = Destination {
                registry: Some(self.destination),
                repository: &self.to.repository,
            };
            let cost = estimator.copy(from, digest, destination);
            Work::Planned(cost.await?)
        } else {
            let job = CopyJob {
                source: self.source,
                source_repository: from.1,
                digest,
                target: self.destination,
                target_repository: &self.to.repository,
                siblings: &[],
            };
            let name = format!("{}@{digest}", self.image.source);
            let watch = ImageWatch::new(&self.session.board, name);
            let options = CopyOptions {
                watch: Some(watch.clone()),
                limits: self.session.limits.clone(),
                tag: tag.cloned(),
                top: Some(manifest.clone()),
                most_bytes: Some(MAX_BYTES),
                ..CopyOptions::default()
            };
            let copied = job.run_with(&options).await?;
            watch.complete();
            Work::Copied(Spent::from(&copied))
        };
        attached.add(digest, work);
        Ok(true)
    }
}

/// Leaves something out that will not be had, and passes on what may pass.
fn leave_out(attached: &mut Attached, what: impl Display, error: Error) -> anyhow::Result<()> {
    let error = anyhow::Error::from(error);
    if !is_permanent(&error) {
        return Err(error);
    }
    attached.leave_out(what, format!("{error:#}"));
    Ok(())
}

fn is_permanent(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<Error>();
    error.is_some_and(|error| matches!(error.class(), Class::Permanent))
}

/// Says whether one manifest has all that another one has: cosign adds to what it made before.
fn continues(before: &Manifest, after: &Manifest) -> bool {
    let Content::Image { layers, .. } = &before.content else {
        return false;
    };
    let has = |digest: &Digest| after.blobs().any(|blob| blob.digest == *digest);
    !layers.is_empty() && layers.iter().all(|layer| has(&layer.digest))
}
