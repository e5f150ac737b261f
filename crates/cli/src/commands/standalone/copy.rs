//! `sluice copy`: one image from one registry to another, without a bus.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use sluice_copier::{
    CopyOutcome, Image, Progress as _, Pulls, Session, SessionOptions, Target, Work,
};
use sluice_domain::Platform;
use sluice_domain::resources::PlatformFilter;
use sluice_registry::{ManifestRef, RemoteImage};
use sluice_service::Secrets;
use tokio::time::Instant;

use crate::arguments::connection::Connection;
use crate::arguments::registry_options::RegistryArguments;
use crate::copies::progress_bars::ProgressBars;
use crate::copies::render::{self, merge};
use crate::exit::{FAILED, HELP, INTERRUPTED, usage_error};
use crate::output::{Format, line, note, show};

/// Copy an image from one registry to another (standalone).
#[derive(Debug, Args)]
#[command(after_help = format!("Examples:
  sluice copy alpine:3.20 registry.example/hub/alpine
  sluice copy --dry-run -o json ghcr.io/team/app:1.0 localhost:5000/app --plain-http localhost:5000

{HELP}"))]
pub(crate) struct Arguments {
    /// Image to copy, as in `alpine:3.20` or `ghcr.io/team/app@sha256:...`; without a tag or digest, `latest`.
    #[arg(value_name = "SRC")]
    source: RemoteImage,
    /// Destination; without a tag it gets the tag of the source.
    #[arg(value_name = "DST")]
    destination: RemoteImage,
    /// Copy every platform and everything else of an index, which is the default.
    #[arg(long)]
    all: bool,
    /// Copy only these platforms of an index; the filtered index has a digest of its own.
    #[arg(
        long,
        value_name = "OS/ARCH[/VARIANT]",
        value_delimiter = ',',
        conflicts_with = "all"
    )]
    platform: Vec<Platform>,
    /// Also copy signatures, attestations and SBOMs: referrers and cosign's tags.
    #[arg(long)]
    referrers: bool,
    /// Show what would be copied and what it would cost; copy nothing.
    #[arg(long)]
    dry_run: bool,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: RegistryArguments,
}

impl Arguments {
    /// Copies the image and shows the outcome.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<ExitCode> {
        let image = match self.image() {
            Ok(image) => image,
            Err(reason) => return Ok(usage_error(&reason)),
        };
        let progress = ProgressBars::new(self.output != Format::Table);
        let session = Session::new(
            self.remote.options(connection),
            Vec::new(),
            Secrets::default(),
            SessionOptions {
                dry_run: self.dry_run,
                attachments: self.referrers,
            },
            progress.clone(),
        );
        let started = Instant::now();
        progress.add_images(1);
        let copied = tokio::select! {
            // The signal handler is registered before the copy starts.
            biased;
            interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| None)?,
            copied = session.copy_image(&image) => Some(copied),
        };
        progress.clear();
        let mut report = json!({
            "source": image.to_string(),
            "destination": self.destination.repository.to_string(),
            "tag": image.tag,
            "dryRun": self.dry_run,
            "seconds": render::seconds(started.elapsed()),
            "registries": render::registries(&session.usage()),
        });
        let code = match copied {
            Some(Ok(outcome)) => {
                show_outcome(&self, &image, &outcome, &mut report)?;
                let pulls = planned_pulls(&image, &outcome);
                for line in render::forecast(&session.usage(), &pulls, &mut report) {
                    note(&line);
                }
                for reason in &outcome.attachments.skipped {
                    note(&format!("left out: {image}: {reason}"));
                }
                match &outcome.attachments.failure {
                    Some(reason) => {
                        note(&format!("failed: {image}: {reason}"));
                        ExitCode::from(FAILED)
                    }
                    None => ExitCode::SUCCESS,
                }
            }
            Some(Err(error)) => {
                merge(
                    &mut report,
                    json!({ "outcome": "failed", "error": format!("{error:#}") }),
                );
                if self.output != Format::Table {
                    show(self.output, &[], Vec::new(), &report)?;
                }
                return Err(error.context(format!("failed to copy `{image}`")));
            }
            None => {
                merge(&mut report, json!({ "outcome": "interrupted" }));
                if self.output == Format::Table {
                    note("interrupted; no tag is incomplete");
                }
                ExitCode::from(INTERRUPTED)
            }
        };
        if self.output != Format::Table {
            show(self.output, &[], Vec::new(), &report)?;
        }
        Ok(code)
    }

    fn image(&self) -> Result<Image, String> {
        let (source, destination) = (&self.source, &self.destination);
        let reference = match (&source.digest, &source.tag) {
            (Some(digest), _) => ManifestRef::Digest(digest.clone()),
            (None, Some(tag)) => ManifestRef::Tag(tag.clone()),
            (None, None) => ManifestRef::Tag("latest".parse().map_err(|e| format!("{e}"))?),
        };
        if destination.digest.is_some() && !self.platform.is_empty() {
            return Err(
                "a filtered index has another digest; remove `@sha256:...` from the destination"
                    .to_owned(),
            );
        }
        if destination.digest.is_some() && destination.digest != source.digest {
            return Err(
                "the digests of source and destination differ; remove `@sha256:...` from the destination"
                    .to_owned(),
            );
        }
        let tag = match (&destination.tag, &source.tag, &reference) {
            (Some(tag), ..) | (None, Some(tag), _) => Some(tag.clone()),
            (None, None, ManifestRef::Tag(tag)) => Some(tag.clone()),
            (None, None, ManifestRef::Digest(_)) => None,
        };
        Ok(Image {
            source: source.repository.clone(),
            reference,
            target: Target::Registry(destination.repository.clone()),
            tag,
            platforms: if self.platform.is_empty() {
                PlatformFilter::All
            } else {
                PlatformFilter::Only(self.platform.iter().cloned().collect())
            },
        })
    }
}

fn planned_pulls(image: &Image, outcome: &CopyOutcome) -> Pulls {
    let mut pulls = Pulls::new();
    for work in outcome.works() {
        if let Work::Planned(cost) = work {
            *pulls.entry(image.source.host.clone()).or_default() += cost.pulls;
        }
    }
    pulls
}

fn show_outcome(
    arguments: &Arguments,
    image: &Image,
    outcome: &CopyOutcome,
    report: &mut Value,
) -> anyhow::Result<()> {
    merge(report, render::outcome_json(outcome));
    if arguments.output != Format::Table {
        return Ok(());
    }
    let tag = image.tag.as_ref().map(|tag| format!(":{tag}"));
    line(&format!(
        "{image} -> {}{}@{}: {}",
        arguments.destination.repository,
        tag.unwrap_or_default(),
        outcome.digest,
        render::outcome(outcome)
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        copy: Arguments,
    }

    fn image(source: &str, destination: &str) -> Result<Image, String> {
        let command = Command::try_parse_from(["copy", source, destination]);
        command.map_err(|error| error.to_string())?.copy.image()
    }

    #[test]
    fn the_destination_defaults_to_the_tag_of_the_source() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (source, destination, shown, tag) in [
            (
                "alpine:3.20",
                "r.example/a",
                "docker.io/library/alpine:3.20",
                Some("3.20"),
            ),
            (
                "alpine:3.20",
                "r.example/a:x",
                "docker.io/library/alpine:3.20",
                Some("x"),
            ),
            ("q.io/a", "r.example/a", "q.io/a:latest", Some("latest")),
            (
                &format!("q.io/a@{digest}"),
                "r.example/a",
                &format!("q.io/a@{digest}"),
                None,
            ),
            (
                &format!("q.io/a@{digest}"),
                "r.example/a:x",
                &format!("q.io/a@{digest}"),
                Some("x"),
            ),
            (
                &format!("q.io/a:1@{digest}"),
                "r.example/a",
                &format!("q.io/a@{digest}"),
                Some("1"),
            ),
        ] {
            let image = image(source, destination).unwrap();
            assert_eq!(image.to_string(), shown);
            assert_eq!(image.tag.map(String::from).as_deref(), tag, "{source}");
        }
        assert!(image("alpine:3", &format!("r.example/a@{digest}")).is_err());
    }
}
