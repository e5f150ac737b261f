//! Brings one image from one registry to another, or says what that would cost. What `copy`, `sync` and `plan` share.

mod attached;
pub(crate) mod board;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_domain::resources::Platforms;
use sluice_domain::{
    Backoff, Class, Classify as _, Digest, RegistryHost, RemoteRepository, Repository, Tag,
};
use sluice_registry::{
    Client, Copied, CopyJob, CopyOptions, Cost, Destination, Error, Estimator, Limits, Manifest,
    ManifestRef,
};
use sluice_service::Secrets;

pub(crate) use self::attached::Attached;
use self::attached::Attachments;
use self::board::{Board, ImageWatch};
use crate::remote::{Clients, RemoteOptions, Side};

/// How often an image is tried; the client itself repeats single requests before that.
const TRIES: u32 = 3;
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
/// How often a tag that moves while it is copied is looked at again.
const MOVES: u32 = 3;
/// The longest wait that a registry may ask for before the image counts as failed.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// How many bytes of blobs may be under way at a time where connections are limited by hand.
const BYTES_UNDER_WAY: u64 = 16 << 30;

/// What is done for all images of one command.
#[derive(Debug)]
pub(crate) struct Session {
    /// The registries.
    pub(crate) clients: Clients,
    /// What a person sees meanwhile.
    pub(crate) board: Arc<Board>,
    limits: Option<Limits>,
    /// Adds up the cost where nothing is to be copied.
    estimator: Option<tokio::sync::Mutex<Estimator>>,
    /// What is known of attachments, where they are to follow their images.
    attachments: Option<Attachments>,
    /// Registries whose quota is used up, with what they said.
    closed: Mutex<BTreeMap<RegistryHost, String>>,
}

/// What a command does besides copying images.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wishes {
    /// Writes nothing, and adds up what it would cost.
    pub(crate) dry_run: bool,
    /// Writes no lines for single images.
    pub(crate) quiet: bool,
    /// Brings what is attached to images after them.
    pub(crate) referrers: bool,
}

/// What is at the other end.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// A repository of a registry.
    Registry(RemoteRepository),
    /// A repository of which only the digests of its tags are known.
    Known(Repository, Arc<HashMap<Tag, Digest>>),
}

/// One image to bring.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    /// Where it comes from.
    pub(crate) source: RemoteRepository,
    /// What it is there.
    pub(crate) wanted: ManifestRef,
    /// Where it goes.
    pub(crate) target: Target,
    /// The tag that it gets there, if any.
    pub(crate) tag: Option<Tag>,
    /// Which platforms of it.
    pub(crate) platforms: Platforms,
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.wanted {
            ManifestRef::Tag(_) => ':',
            ManifestRef::Digest(_) => '@',
        };
        write!(f, "{}{sign}{}", self.source, self.wanted)
    }
}

/// An image that is there now, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Brought {
    /// Its digest.
    pub(crate) digest: Digest,
    /// What was at its place before.
    pub(crate) before: Option<Digest>,
    /// What it took.
    pub(crate) work: Work,
    /// What is attached to it, where that was to follow.
    pub(crate) attached: Attached,
}

/// What it took to bring an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Work {
    /// It was there.
    #[default]
    Unchanged,
    /// It was copied.
    Copied(Spent),
    /// It would have to be copied.
    Planned(Cost),
}

/// What a copy transferred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Spent {
    /// The bytes that were transferred.
    pub(crate) bytes: u64,
    /// The blobs that were transferred.
    pub(crate) blobs_copied: u64,
    /// The blobs that another repository had.
    pub(crate) blobs_mounted: u64,
    /// The blobs that were there.
    pub(crate) blobs_skipped: u64,
}

impl Brought {
    fn new(digest: Digest, before: Option<Digest>, work: Work) -> Self {
        Self {
            digest,
            before,
            work,
            attached: Attached::default(),
        }
    }

    /// Returns what it took, and then what its attachments took.
    pub(crate) fn works(&self) -> [&Work; 2] {
        [&self.work, &self.attached.work]
    }

    /// Says whether there is nothing to tell of it.
    pub(crate) fn is_unchanged(&self) -> bool {
        let unchanged = self
            .works()
            .into_iter()
            .all(|work| *work == Work::Unchanged);
        unchanged && self.attached.left_out.is_empty() && self.attached.failure.is_none()
    }
}

impl Work {
    /// Adds what something else took.
    fn add(&mut self, other: Self) {
        match (self, other) {
            (_, Self::Unchanged) => {}
            (Self::Copied(all), Self::Copied(spent)) => all.add(&spent),
            (Self::Planned(all), Self::Planned(cost)) => all.add(&cost),
            (all, work) => *all = work,
        }
    }
}

impl Spent {
    /// Adds what another copy transferred.
    pub(crate) fn add(&mut self, other: &Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.blobs_copied += other.blobs_copied;
        self.blobs_mounted += other.blobs_mounted;
        self.blobs_skipped += other.blobs_skipped;
    }
}

impl From<&Copied> for Spent {
    fn from(copied: &Copied) -> Self {
        Self {
            bytes: copied.bytes_copied,
            blobs_copied: copied.blobs_copied,
            blobs_mounted: copied.blobs_mounted,
            blobs_skipped: copied.blobs_skipped,
        }
    }
}

impl Session {
    /// Begins.
    pub(crate) fn new(
        options: &RemoteOptions,
        registries: Vec<sluice_domain::resources::Registry>,
        secrets: Secrets,
        wishes: Wishes,
    ) -> Arc<Self> {
        let limits = options.max_connections;
        Arc::new(Self {
            clients: Clients::new(options.clone(), registries, secrets),
            board: Board::new(wishes.quiet),
            limits: limits.map(|connections| Limits::new(connections, BYTES_UNDER_WAY)),
            estimator: wishes.dry_run.then(tokio::sync::Mutex::default),
            attachments: wishes.referrers.then(Attachments::default),
            closed: Mutex::default(),
        })
    }

    /// Says whether nothing is to be written.
    pub(crate) fn is_dry_run(&self) -> bool {
        self.estimator.is_some()
    }

    /// Brings an image: one look at each end, and nothing else where they agree. What is attached to it comes after it, and
    /// where that fails the image stays and says so.
    pub(crate) async fn bring(&self, image: &Image) -> anyhow::Result<Brought> {
        let source = self.clients.client(Side::Source, &image.source.host)?;
        let (mut tries, mut here) = (1, None);
        loop {
            self.open(&image.source.host)?;
            if let Target::Registry(target) = &image.target {
                self.open(&target.host)?;
            }
            let error = match self.go_on(&source, image, &mut here).await {
                Ok(brought) => return Ok(brought),
                Err(error) => error,
            };
            let Some(pause) = pause(&error, tries, image) else {
                self.note_quota(&error);
                let Some(mut brought) = here else {
                    return Err(error);
                };
                brought.attached.failure = Some(format!("{error:#}"));
                return Ok(brought);
            };
            tracing::debug!(%error, tries, image = %image, "failed; trying again");
            tokio::time::sleep(pause).await;
            tries += 1;
        }
    }

    /// Takes note of all tags of a source, so that it need not be asked for them again.
    pub(crate) fn note_tags(&self, from: &RemoteRepository, tags: &[Tag]) {
        if let Some(attachments) = &self.attachments {
            attachments.note(from, tags);
        }
    }

    /// Refuses to ask a registry again whose quota is used up: that would only prolong it.
    pub(crate) fn open(&self, host: &RegistryHost) -> anyhow::Result<()> {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        match closed.get(host) {
            Some(reason) => anyhow::bail!("not asked for: {reason}"),
            None => Ok(()),
        }
    }

    /// Takes note of a used-up quota, of the registry that says so: the one at the other end is still asked.
    pub(crate) fn note_quota(&self, error: &anyhow::Error) {
        if let Some(Error::Quota { registry, .. }) = error.downcast_ref() {
            let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
            closed
                .entry(registry.as_ref().clone())
                .or_insert_with(|| format!("{error:#}"));
        }
    }

    /// Goes on from where an earlier try ended.
    async fn go_on(
        &self,
        source: &Client,
        image: &Image,
        here: &mut Option<Brought>,
    ) -> anyhow::Result<Brought> {
        let brought = match here {
            Some(brought) => brought,
            None => here.insert(self.once(source, image).await?),
        };
        self.attach(source, image, brought).await?;
        Ok(brought.clone())
    }

    async fn once(&self, source: &Client, image: &Image) -> anyhow::Result<Brought> {
        let (found, before) = tokio::join!(digest(source, image), self.before(image));
        let (mut found, before) = (found?, before?);
        for _ in 0..MOVES {
            let error = match self.of_digest(source, image, &found, before.clone()).await {
                Err(error) if is_not_found(&error) => error,
                ended => return ended,
            };
            // The tag may have moved meanwhile, and what it named before may be gone.
            let now = digest(source, image).await?;
            if now == found {
                return Err(error);
            }
            found = now;
        }
        self.of_digest(source, image, &found, before).await
    }

    async fn of_digest(
        &self,
        source: &Client,
        image: &Image,
        digest: &Digest,
        before: Option<Digest>,
    ) -> anyhow::Result<Brought> {
        let digest = digest.clone();
        let unchanged = |digest, before| Brought::new(digest, before, Work::Unchanged);
        if self.is_same(image, &digest, before.as_ref()).await? {
            return Ok(unchanged(before.clone().unwrap_or(digest), before));
        }
        let top = if image.platforms.is_all() {
            None
        } else {
            let part = source.part(&image.source.repository, &digest, &image.platforms);
            Some(part.await?)
        };
        let digest = top.as_ref().map_or(digest, |top| top.digest.clone());
        if before.as_ref() == Some(&digest) {
            return Ok(unchanged(digest, before));
        }
        let work = match &self.estimator {
            Some(estimator) => {
                let mut estimator = estimator.lock().await;
                if let Some(part) = &top {
                    estimator.know(part);
                }
                let cost = self.estimate(&mut estimator, source, image, &digest);
                Work::Planned(cost.await?)
            }
            None => Work::Copied(self.copy(source, image, &digest, top).await?),
        };
        Ok(Brought::new(digest, before, work))
    }

    /// Says whether the destination has what is wanted of a digest; a part of an index says what it is, and an image
    /// must be for one of the platforms.
    async fn is_same(
        &self,
        image: &Image,
        digest: &Digest,
        before: Option<&Digest>,
    ) -> anyhow::Result<bool> {
        let (Some(before), Target::Registry(target), false) =
            (before, &image.target, image.platforms.is_all())
        else {
            return Ok(before == Some(digest));
        };
        let client = self.clients.client(Side::Destination, &target.host)?;
        if before == digest {
            let part = client.part(&target.repository, digest, &image.platforms);
            return Ok(part.await?.digest == *digest);
        }
        let there = client.manifest(&target.repository, &before.into()).await?;
        Ok(there.is_part(digest, &image.platforms))
    }

    /// Returns what is at the destination.
    async fn before(&self, image: &Image) -> anyhow::Result<Option<Digest>> {
        match &image.target {
            Target::Known(_, known) => {
                Ok(image.tag.as_ref().and_then(|tag| known.get(tag)).cloned())
            }
            Target::Registry(target) => {
                let client = self.clients.client(Side::Destination, &target.host)?;
                let reference = image
                    .tag
                    .as_ref()
                    .map_or_else(|| image.wanted.clone(), ManifestRef::from);
                let head = client.head(&target.repository, &reference).await?;
                Ok(head.map(|head| head.digest))
            }
        }
    }

    async fn estimate(
        &self,
        estimator: &mut Estimator,
        source: &Client,
        image: &Image,
        digest: &Digest,
    ) -> anyhow::Result<Cost> {
        let client;
        let destination = match &image.target {
            Target::Known(repository, _) => Destination {
                registry: None,
                repository,
            },
            Target::Registry(target) => {
                client = self.clients.client(Side::Destination, &target.host)?;
                Destination {
                    registry: Some(&client),
                    repository: &target.repository,
                }
            }
        };
        let from = (source, &image.source.repository);
        Ok(estimator.copy(from, digest, destination).await?)
    }

    async fn copy(
        &self,
        source: &Client,
        image: &Image,
        digest: &Digest,
        top: Option<Manifest>,
    ) -> anyhow::Result<Spent> {
        let Target::Registry(target) = &image.target else {
            anyhow::bail!("`{image}` has no registry to be copied to");
        };
        let client = self.clients.client(Side::Destination, &target.host)?;
        let watch = ImageWatch::new(&self.board, image.to_string());
        let job = CopyJob {
            source,
            source_repository: &image.source.repository,
            digest,
            target: &client,
            target_repository: &target.repository,
            siblings: &[],
        };
        let options = CopyOptions {
            watch: Some(watch.clone()),
            limits: self.limits.clone(),
            // It is written last, so that it never points to something that is not complete.
            tag: image.tag.clone(),
            top,
            ..CopyOptions::default()
        };
        let copied = job.run_with(&options).await?;
        watch.complete();
        Ok(Spent::from(&copied))
    }
}

/// Returns what an image is at its source; a digest is what it is.
async fn digest(source: &Client, image: &Image) -> anyhow::Result<Digest> {
    match &image.wanted {
        ManifestRef::Digest(digest) => Ok(digest.clone()),
        ManifestRef::Tag(_) => {
            let repository = &image.source.repository;
            let head = source.resolve(repository, &image.wanted).await?;
            let head = head.ok_or_else(|| Error::NotFound {
                what: image.to_string(),
            })?;
            Ok(head.digest)
        }
    }
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(Error::is_not_found)
}

/// Returns how long to wait before an image is tried again, if that can help.
fn pause(error: &anyhow::Error, tries: u32, image: &Image) -> Option<Duration> {
    let error: &Error = error.downcast_ref()?;
    if tries >= TRIES || matches!(error, Error::Quota { .. }) {
        return None;
    }
    let asked = match error.class() {
        Class::Permanent => return None,
        Class::Transient { after } => after.unwrap_or_default(),
        class if class.is_outage() => Duration::ZERO,
        Class::Unavailable { until } => (until - sluice_domain::now()).to_std().unwrap_or_default(),
    };
    let chance = f64::from(image.to_string().bytes().fold(0_u8, u8::wrapping_add)) / 255.0;
    Some(asked.max(BACKOFF.delay(tries, chance))).filter(|pause| *pause <= LONGEST_WAIT)
}
