//! `sluice copy`: one image from one registry to another, without a bus.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use sluice_domain::Platform;
use sluice_domain::resources::Platforms;
use sluice_registry::{ManifestRef, RemoteImage};
use sluice_service::Secrets;
use tokio::time::Instant;

use crate::cost::{self, merge};
use crate::exit::{FAILED, HELP, INTERRUPTED};
use crate::output::{Format, note, show};
use crate::remote::RemoteOptions;
use crate::transfer::{Brought, Image, Session, Target, Wishes};

/// Copies an image or a whole index, byte for byte.
#[derive(Debug, Args)]
#[command(after_help = format!("Examples:
  sluice copy alpine:3.20 registry.example/hub/alpine
  sluice copy --dry-run -o json ghcr.io/team/app:1.0 localhost:5000/app --plain-http localhost:5000

{HELP}"))]
pub(crate) struct CopyArguments {
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
    pub(crate) remote: RemoteOptions,
}

impl CopyArguments {
    fn image(&self) -> Result<Image, String> {
        let (source, destination) = (&self.source, &self.destination);
        let wanted = match (&source.digest, &source.tag) {
            (Some(digest), _) => ManifestRef::Digest(digest.clone()),
            (None, Some(tag)) => ManifestRef::Tag(tag.clone()),
            (None, None) => ManifestRef::Tag("latest".parse().map_err(|e| format!("{e}"))?),
        };
        if destination.digest.is_some() && !self.platform.is_empty() {
            return Err(
                "a part of an index has another digest; leave `@sha256:...` out".to_owned(),
            );
        }
        if destination.digest.is_some() && destination.digest != source.digest {
            return Err(
                "the destination keeps the digest of the source; leave `@sha256:...` out"
                    .to_owned(),
            );
        }
        let tag = match (&destination.tag, &source.tag, &wanted) {
            (Some(tag), ..) | (None, Some(tag), _) => Some(tag.clone()),
            (None, None, ManifestRef::Tag(tag)) => Some(tag.clone()),
            (None, None, ManifestRef::Digest(_)) => None,
        };
        Ok(Image {
            source: source.repository.clone(),
            wanted,
            target: Target::Registry(destination.repository.clone()),
            tag,
            platforms: if self.platform.is_empty() {
                Platforms::All
            } else {
                Platforms::Only(self.platform.iter().cloned().collect())
            },
        })
    }
}

/// Copies, and says how it ended.
pub(crate) async fn copy(arguments: &CopyArguments) -> anyhow::Result<ExitCode> {
    let image = match arguments.image() {
        Ok(image) => image,
        Err(reason) => return Ok(crate::misused(&reason)),
    };
    let wishes = Wishes {
        dry_run: arguments.dry_run,
        quiet: arguments.output != Format::Table,
        referrers: arguments.referrers,
    };
    let session = Session::new(&arguments.remote, Vec::new(), Secrets::default(), wishes);
    let begun = Instant::now();
    session.board.expect(1);
    let ended = tokio::select! {
        // First, so that it is listened for before anything begins.
        biased;
        interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| None)?,
        ended = session.bring(&image) => Some(ended),
    };
    session.board.clear();
    let mut report = json!({
        "source": image.to_string(),
        "destination": arguments.destination.repository.to_string(),
        "tag": image.tag,
        "dryRun": arguments.dry_run,
        "seconds": cost::seconds(begun.elapsed()),
        "registries": cost::registries(&session.clients.asked()),
    });
    let code = match ended {
        Some(Ok(brought)) => {
            tell(arguments, &image, &brought, &mut report)?;
            let pulls = cost::pulls_of(&image.source.host, &brought);
            for line in cost::forecast(&session.clients.asked(), &pulls, &mut report) {
                note(&line);
            }
            for reason in &brought.attached.left_out {
                note(&format!("left out: {image}: {reason}"));
            }
            match &brought.attached.failure {
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
            if arguments.output != Format::Table {
                show(arguments.output, &[], Vec::new(), &report)?;
            }
            return Err(error.context(format!("failed to copy `{image}`")));
        }
        None => {
            merge(&mut report, json!({ "outcome": "interrupted" }));
            if arguments.output == Format::Table {
                note("interrupted; no tag is incomplete");
            }
            ExitCode::from(INTERRUPTED)
        }
    };
    if arguments.output != Format::Table {
        show(arguments.output, &[], Vec::new(), &report)?;
    }
    Ok(code)
}

fn tell(
    arguments: &CopyArguments,
    image: &Image,
    brought: &Brought,
    report: &mut Value,
) -> anyhow::Result<()> {
    merge(report, cost::brought(brought));
    if arguments.output != Format::Table {
        return Ok(());
    }
    let tag = image.tag.as_ref().map(|tag| format!(":{tag}"));
    let place = format!(
        "{}{}",
        arguments.destination.repository,
        tag.unwrap_or_default()
    );
    crate::output::line(&format!(
        "{} -> {place}@{}: {}",
        image,
        brought.digest,
        cost::told(brought)
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        copy: CopyArguments,
    }

    fn image(source: &str, destination: &str) -> Result<Image, String> {
        let command = Command::try_parse_from(["copy", source, destination]);
        command.map_err(|error| error.to_string())?.copy.image()
    }

    #[test]
    fn the_destination_takes_what_it_does_not_say_from_the_source() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (source, destination, wanted, tag) in [
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
            assert_eq!(image.to_string(), wanted);
            assert_eq!(image.tag.map(String::from).as_deref(), tag, "{source}");
        }
        assert!(image("alpine:3", &format!("r.example/a@{digest}")).is_err());
    }
}
