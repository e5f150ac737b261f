//! A session: copies images with retries, and stops asking registries whose quota is exhausted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sluice_domain::resources::Registry;
use sluice_domain::{Backoff, Class, Classify as _, RegistryHost, RemoteRepository, Tag};
use sluice_registry::{Client, ConcurrencyLimits, Error};
use sluice_service::Secrets;

use crate::attachment_cache::AttachmentCache;
use crate::attachments::copy_attachments;
use crate::clients::{Clients, RegistryOptions, RegistryUsage, Side};
use crate::image::{Image, Target};
use crate::image_copier::ImageCopier;
use crate::outcome::CopyOutcome;
use crate::progress::Progress;

/// How many times an image is tried; the client itself retries single requests before that.
const MAX_ATTEMPTS: u32 = 3;
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));
/// The longest wait that a registry may ask for before the image fails.
const MAX_WAIT: Duration = Duration::from_secs(120);
/// The bytes of blobs that are transferred concurrently where connections are limited by an option.
const MAX_BYTES_IN_FLIGHT: u64 = 16 << 30;

/// What a session does besides copying images.
#[derive(Debug, Clone, Copy, Default)]
pub struct SessionOptions {
    /// Estimates the cost and writes nothing.
    pub dry_run: bool,
    /// Copies signatures, attestations and SBOMs too.
    pub attachments: bool,
}

/// What the copies of one command share.
#[derive(Debug)]
pub struct Session {
    transfer: ImageCopier,
    attachments: Option<AttachmentCache>,
    /// Registries whose quota is exhausted, with their error.
    exhausted: Mutex<BTreeMap<RegistryHost, String>>,
}

impl Session {
    /// Creates a session without connecting to a registry.
    pub fn new(
        registry_options: RegistryOptions,
        registries: Vec<Registry>,
        secrets: Secrets,
        options: SessionOptions,
        progress: Arc<dyn Progress>,
    ) -> Arc<Self> {
        let max_connections = registry_options.max_connections;
        Arc::new(Self {
            transfer: ImageCopier {
                clients: Clients::new(registry_options, registries, secrets),
                progress,
                limits: max_connections
                    .map(|count| ConcurrencyLimits::new(count, MAX_BYTES_IN_FLIGHT)),
                estimator: options.dry_run.then(tokio::sync::Mutex::default),
            },
            attachments: options.attachments.then(AttachmentCache::default),
            exhausted: Mutex::default(),
        })
    }

    /// Tells whether nothing is written.
    pub fn is_dry_run(&self) -> bool {
        self.transfer.is_dry_run()
    }

    /// Returns the requests to each registry.
    pub fn usage(&self) -> Vec<RegistryUsage> {
        self.transfer.clients.usage()
    }

    /// Copies an image, then its attachments; a failure of these is part of the outcome.
    ///
    /// An image that is up to date costs one HEAD at each end.
    pub async fn copy_image(&self, image: &Image) -> anyhow::Result<CopyOutcome> {
        let source = self.client(Side::Source, &image.source.host)?;
        let (mut attempts, mut outcome) = (1, None);
        loop {
            self.check_quota(&image.source.host)?;
            if let Target::Registry(target) = &image.target {
                self.check_quota(&target.host)?;
            }
            let error = match self.attempt(&source, image, &mut outcome).await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            let Some(delay) = retry_delay(&error, attempts, image) else {
                self.record_quota(&error);
                let Some(mut outcome) = outcome else {
                    return Err(error);
                };
                outcome.attachments.failure = Some(format!("{error:#}"));
                return Ok(outcome);
            };
            tracing::debug!(%error, attempts, image = %image, "copy failed; retrying");
            tokio::time::sleep(delay).await;
            attempts += 1;
        }
    }

    /// Continues after what an earlier attempt has completed.
    async fn attempt(
        &self,
        source: &Client,
        image: &Image,
        outcome: &mut Option<CopyOutcome>,
    ) -> anyhow::Result<CopyOutcome> {
        let outcome = match outcome {
            Some(outcome) => outcome,
            None => outcome.insert(self.transfer.copy_image(source, image).await?),
        };
        if let Some(cache) = &self.attachments {
            copy_attachments(&self.transfer, cache, source, image, outcome).await?;
        }
        Ok(outcome.clone())
    }

    pub(crate) fn client(&self, side: Side, host: &RegistryHost) -> anyhow::Result<Client> {
        self.transfer.clients.client(side, host)
    }

    pub(crate) fn progress(&self) -> &dyn Progress {
        self.transfer.progress.as_ref()
    }

    /// Caches the tags of a source, so that attachments do not list them again.
    pub(crate) fn cache_tags(&self, source: &RemoteRepository, tags: &[Tag]) {
        if let Some(cache) = &self.attachments {
            cache.set_tags(source, tags);
        }
    }

    /// Refuses requests to a registry whose quota is exhausted: they would only prolong that.
    pub(crate) fn check_quota(&self, host: &RegistryHost) -> anyhow::Result<()> {
        let exhausted = self
            .exhausted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match exhausted.get(host) {
            Some(reason) => anyhow::bail!("not requested: {reason}"),
            None => Ok(()),
        }
    }

    /// Records the registry of an error that says that its quota is exhausted.
    pub(crate) fn record_quota(&self, error: &anyhow::Error) {
        if let Some(Error::Quota { registry, .. }) = error.downcast_ref() {
            self.exhausted
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(registry.as_ref().clone())
                .or_insert_with(|| format!("{error:#}"));
        }
    }
}

/// Returns the delay before the next attempt, or `None` if no attempt can help.
fn retry_delay(error: &anyhow::Error, attempts: u32, image: &Image) -> Option<Duration> {
    let error: &Error = error.downcast_ref()?;
    if attempts >= MAX_ATTEMPTS || matches!(error, Error::Quota { .. }) {
        return None;
    }
    let requested = match error.class() {
        Class::Permanent => return None,
        Class::Transient { after } => after.unwrap_or_default(),
        class if class.is_outage() => Duration::ZERO,
        Class::Unavailable { until } => (until - sluice_domain::now()).to_std().unwrap_or_default(),
    };
    let jitter = f64::from(image.to_string().bytes().fold(0_u8, u8::wrapping_add)) / 255.0;
    Some(requested.max(BACKOFF.delay(attempts, jitter))).filter(|delay| *delay <= MAX_WAIT)
}
