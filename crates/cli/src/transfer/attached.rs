//! What is attached to an image follows it where that is wanted: signatures, attestations, SBOMs.
//!
//! A source lists them by its API for referrers or under a tag that is named after the digest, and cosign puts what it
//! makes under such tags too. A list is a hint: what is listed has to say itself what it refers to. A destination without
//! an API for referrers gets a list under that tag, as a running Sluice writes it (OCI distribution specification 1.1).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use sluice_domain::resources::Platforms;
use sluice_domain::{Digest, RemoteRepository, Tag};
use sluice_registry::{Client, CopyJob, CopyOptions, Destination, Error, Manifest, ManifestRef};
use tokio::sync::OnceCell;

use super::board::ImageWatch;
use super::{Brought, Image, Session, Spent, Target, Work};
use crate::remote::Side;

/// The most things attached to one image, all together.
const MAX_ATTACHED: usize = 512;

/// What a command knows of what is attached to images.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    /// The tags of sources that are named after a digest; each source is asked once.
    tags: Mutex<HashMap<RemoteRepository, Arc<OnceCell<BTreeSet<Tag>>>>>,
    /// The sources that have no API for referrers.
    unlisting: Mutex<HashSet<RemoteRepository>>,
    /// Whether what is attached to an image is at a destination; two tags of one image ask once.
    turns: Mutex<HashMap<(RemoteRepository, Digest), Turn>>,
}

type Turn = Arc<tokio::sync::Mutex<bool>>;

impl Attachments {
    fn turn(&self, target: &RemoteRepository, digest: &Digest) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (target.clone(), digest.clone());
        turns.entry(place).or_default().clone()
    }

    fn cell(&self, from: &RemoteRepository) -> Arc<OnceCell<BTreeSet<Tag>>> {
        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        tags.entry(from.clone()).or_default().clone()
    }

    /// Takes note of all tags of a source, so that it need not be asked for them.
    pub(crate) fn note(&self, from: &RemoteRepository, tags: &[Tag]) {
        let named = tags.iter().filter(|tag| tag.attached_to().is_some());
        // Where it is known already, that is as good.
        self.cell(from).set(named.cloned().collect()).ok();
    }
}

/// The attachments of one image on their way.
struct Following<'a> {
    session: &'a Session,
    known: &'a Attachments,
    image: &'a Image,
    source: &'a Client,
    destination: &'a Client,
    to: &'a RemoteRepository,
}

/// What a destination lists as referrers of a manifest.
enum There {
    /// By its API, which lists whatever is pushed.
    Api(Vec<Digest>),
    /// Under a tag, if there is such a list.
    Listed(Option<Box<Manifest>>),
}

impl There {
    fn has(&self, digest: &Digest) -> bool {
        match self {
            Self::Api(digests) => digests.contains(digest),
            Self::Listed(list) => {
                let mut listed = list.iter().flat_map(|list| list.children());
                listed.any(|listed| listed.digest == *digest)
            }
        }
    }
}

impl Session {
    /// Brings what is attached to an image that is at its destination, and adds to the image what that took.
    pub(super) async fn attach(
        &self,
        source: &Client,
        image: &Image,
        brought: &mut Brought,
    ) -> anyhow::Result<()> {
        let (Some(known), Target::Registry(to)) = (&self.attachments, &image.target) else {
            return Ok(());
        };
        if image
            .tag
            .as_ref()
            .is_some_and(|tag| tag.attached_to().is_some())
        {
            return Ok(());
        }
        let turn = known.turn(to, &brought.digest);
        let mut is_done = turn.lock().await;
        if *is_done {
            return Ok(());
        }
        let destination = self.clients.client(Side::Destination, &to.host)?;
        let following = Following {
            session: self,
            known,
            image,
            source,
            destination: &destination,
            to,
        };
        let followed = following.follow(brought).await;
        followed.context("failed to bring what is attached to it")?;
        *is_done = true;
        Ok(())
    }
}

impl Following<'_> {
    async fn follow(&self, brought: &mut Brought) -> anyhow::Result<()> {
        let mut level = self.subjects(&brought.digest).await?;
        let mut seen: BTreeSet<Digest> = level.iter().cloned().collect();
        for _ in 0..Tag::ATTACHMENT_DEPTH {
            let mut next = Vec::new();
            for subject in &level {
                let mut attached = self.referrers(subject, brought).await?;
                attached.extend(self.signatures(subject, brought).await?);
                attached.retain(|digest| seen.insert(digest.clone()));
                next.append(&mut attached);
                if seen.len() > MAX_ATTACHED {
                    self.note("it has more than 512 attachments; the others are left out");
                    return Ok(());
                }
            }
            level = next;
        }
        Ok(())
    }

    fn note(&self, told: &str) {
        self.session.board.note(&format!("{}: {told}", self.image));
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
        let images = manifest.children().iter();
        let images = images.filter(|child| !manifest.is_attestation(child));
        let whole = manifest.part_of().is_none().then(|| digest.clone());
        Ok(whole
            .into_iter()
            .chain(images.map(|child| child.digest.clone()))
            .collect())
    }

    /// Brings what is listed as referrers of a manifest, and returns all of it that is there then.
    async fn referrers(
        &self,
        subject: &Digest,
        brought: &mut Brought,
    ) -> anyhow::Result<Vec<Digest>> {
        let Some(tag) = Tag::attachments_of(subject).find(Tag::is_list) else {
            return Ok(Vec::new());
        };
        let listed = self.listed(subject, &tag).await?;
        if listed.is_empty() {
            return Ok(Vec::new());
        }
        let there = self.there(subject, &tag).await?;
        let (mut attached, mut new) = (Vec::new(), Vec::new());
        for digest in listed {
            if there.has(&digest) {
                attached.push(digest);
                continue;
            }
            match self.referrer(subject, &digest, brought).await {
                Ok(manifest) => {
                    attached.push(digest);
                    new.push(manifest);
                }
                Err(error @ (Error::NotFound { .. } | Error::Untrusted { .. })) => {
                    self.note(&format!("a referrer is left out: {error:#}"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let There::Listed(before) = there
            && !self.session.is_dry_run()
            && let Some(list) = Manifest::listing(before.as_deref(), &new)?
        {
            let (repository, reference) = (&self.to.repository, (&tag).into());
            let write = self.destination.put_manifest(repository, &reference, &list);
            write.await?;
        }
        Ok(attached)
    }

    /// Returns what the source lists, by its API and under the tag for those without one.
    async fn listed(&self, subject: &Digest, tag: &Tag) -> anyhow::Result<BTreeSet<Digest>> {
        let from = &self.image.source;
        let mut listed = BTreeSet::new();
        if self.has_tag(tag).await? {
            match self.source.manifest(&from.repository, &tag.into()).await {
                Ok(list) => listed.extend(list.children().iter().map(|entry| entry.digest.clone())),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let is_unlisting = {
            let unlisting = self.known.unlisting.lock();
            unlisting
                .unwrap_or_else(PoisonError::into_inner)
                .contains(from)
        };
        if !is_unlisting {
            match self.source.referrers(&from.repository, subject).await? {
                Some(entries) => listed.extend(entries.into_iter().map(|entry| entry.digest)),
                None => {
                    let unlisting = self.known.unlisting.lock();
                    let mut unlisting = unlisting.unwrap_or_else(PoisonError::into_inner);
                    unlisting.insert(from.clone());
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
            let tags = self.source.tags(&from.repository).await?;
            let named = tags.into_iter().filter(|tag| tag.attached_to().is_some());
            Ok::<_, Error>(named.collect())
        });
        Ok(tags.await?.contains(tag))
    }

    async fn there(&self, subject: &Digest, tag: &Tag) -> anyhow::Result<There> {
        let repository = &self.to.repository;
        if let Some(listed) = self.destination.referrers(repository, subject).await? {
            let digests = listed.into_iter().map(|entry| entry.digest);
            return Ok(There::Api(digests.collect()));
        }
        match self.destination.manifest(repository, &tag.into()).await {
            Ok(list) => Ok(There::Listed(Some(list.into()))),
            Err(error) if error.is_not_found() => Ok(There::Listed(None)),
            Err(error) => Err(error.into()),
        }
    }

    /// Brings a referrer that says itself what it refers to.
    async fn referrer(
        &self,
        subject: &Digest,
        digest: &Digest,
        brought: &mut Brought,
    ) -> Result<Manifest, Error> {
        let from = &self.image.source.repository;
        let manifest = self.source.manifest(from, &digest.into()).await?;
        if manifest.subject().as_ref() != Some(subject) {
            return Err(Error::Untrusted {
                what: digest.to_string(),
                reason: format!("it is listed for `{subject}` and refers to something else"),
            });
        }
        let work = if let Some(estimator) = &self.session.estimator {
            let mut estimator = estimator.lock().await;
            estimator.know(&manifest);
            let destination = Destination {
                registry: Some(self.destination),
                repository: &self.to.repository,
            };
            let cost = estimator.copy((self.source, from), digest, destination);
            Work::Planned(cost.await?)
        } else {
            let job = CopyJob {
                source: self.source,
                source_repository: from,
                digest,
                target: self.destination,
                target_repository: &self.to.repository,
                siblings: &[],
            };
            let watch = ImageWatch::new(&self.session.board, format!("{from}@{digest}"));
            let options = CopyOptions {
                watch: Some(watch.clone()),
                limits: self.session.limits.clone(),
                top: Some(manifest.clone()),
                ..CopyOptions::default()
            };
            let copied = job.run_with(&options).await?;
            watch.complete();
            Work::Copied(Spent::from(&copied))
        };
        brought.attach(work);
        Ok(manifest)
    }

    /// Brings what cosign put under tags that are named after a manifest, and returns what that is.
    async fn signatures(
        &self,
        subject: &Digest,
        brought: &mut Brought,
    ) -> anyhow::Result<Vec<Digest>> {
        let mut attached = Vec::new();
        for tag in Tag::attachments_of(subject).filter(|tag| !tag.is_list()) {
            if !self.has_tag(&tag).await? {
                continue;
            }
            let image = Image {
                source: self.image.source.clone(),
                wanted: ManifestRef::Tag(tag.clone()),
                target: self.image.target.clone(),
                tag: Some(tag),
                platforms: Platforms::All,
            };
            let signature = self.session.once(self.source, &image).await?;
            attached.push(signature.digest);
            if signature.work != Work::Unchanged {
                brought.attach(signature.work);
            }
        }
        Ok(attached)
    }
}
