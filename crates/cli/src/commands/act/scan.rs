//! `sluice scan`: queues a scan of an image.

use anyhow::Context as _;
use clap::Args;
use sluice_bus::Cause;
use sluice_events::commands::ScanImage;
use sluice_registry::ImageReference;
use sluice_state::{State, key};

use crate::arguments::connection::Connection;
use crate::output::line;

/// Scan an image now.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sluice scan hub/alpine:3.20")]
pub(crate) struct Arguments {
    /// Image, as in `hub/alpine:3.20`.
    image: ImageReference,
}

impl Arguments {
    /// Queues a scan of a tag or digest.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let bus = connection.open().await?;
        let ImageReference {
            repository,
            tag,
            digest,
        } = self.image;
        let digest = match (&tag, digest) {
            (_, Some(digest)) => digest,
            (None, None) => anyhow::bail!("name a tag or a digest, as in `{repository}:1.0`"),
            (Some(tag), None) => {
                let entry = State::open(&bus)
                    .await?
                    .tags
                    .get(&key::tag(&repository, tag))
                    .await?;
                let entry = entry.filter(|entry| !entry.value.digest.is_empty());
                let entry = entry.with_context(|| format!("`{repository}:{tag}` not found"))?;
                entry.value.digest.parse()?
            }
        };
        line(&format!("scan queued for {repository}@{digest}"))?;
        let command = ScanImage {
            repository,
            tag,
            digest,
        };
        bus.command(&command.into(), &Cause::root()).await?;
        Ok(())
    }
}
