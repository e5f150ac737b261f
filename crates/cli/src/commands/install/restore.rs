//! `sluice restore`: verifies a whole backup, then restores its streams; promotion and deletion are paused from the start.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use sluice_bus::topology::{EVENTS, FIRST_PAUSED, backup_order};
use sluice_bus::{Bus, ProvisionOptions, StreamSummary};
use sluice_state::record_restore;

use super::backup::{FORMAT, MANIFEST, Manifest, SUMS, SavedStream, checksum_line};
use crate::arguments::connection::Connection;
use crate::output::{Format, count, line, progress, show, size, time};

/// The size of the chunks that are read and sent, in bytes.
const CHUNK: usize = 128 << 10;

/// Restore a backup; the services must be stopped.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sluice restore /var/backups/sluice-2027-01-31")]
pub(crate) struct Arguments {
    /// Folder of the backup.
    folder: PathBuf,
    /// Delete the streams that the server has, with everything in them, first.
    #[arg(long)]
    replace: bool,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Arguments {
    /// Restores all streams.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let (bus, folder) = (connection.open_starting().await?, &*self.folder);
        let manifest = read(folder)?;
        for saved in &manifest.streams {
            verify(folder, saved)?;
        }
        progress("");
        let working = bus.running_stages().await?;
        anyhow::ensure!(
            working.is_empty(),
            "services are running ({}); stop them first: they must not work on partly restored state",
            working.join(", ")
        );
        let existing = bus.streams().await?;
        if !existing.is_empty() {
            anyhow::ensure!(
                self.replace,
                "the server has streams, and nothing was changed; `--replace` would delete {}",
                listed(&existing)
            );
            if self.output == Format::Table {
                line(&format!("deleting {}", listed(&existing)))?;
            }
        }
        for stream in &existing {
            bus.delete_stream(stream.name).await?;
        }
        restore_streams(&bus, folder, &manifest).await?;
        // A version with fewer streams saved the backup, or the server restored a stream without one of its consumers, as a
        // cluster may: the new one delivers all messages of the stream, and what was done already changes nothing.
        let missing = bus.missing_consumers().await?;
        let provisioned = manifest.streams.len() < backup_order().count() || !missing.is_empty();
        if provisioned {
            bus.provision(provision_options(&manifest)).await?;
        }
        if self.output == Format::Table && !missing.is_empty() {
            line(&format!(
                "created again, as the server did not restore them: {}",
                missing.join(", ")
            ))?;
        }
        bus.resume_consumers().await?;
        report(folder, &manifest, &existing, provisioned, self.output)
    }
}

fn read(folder: &Path) -> anyhow::Result<Manifest> {
    let file = folder.join(MANIFEST);
    let text = std::fs::read_to_string(&file)
        .with_context(|| format!("failed to read `{}`; is this a backup?", file.display()))?;
    let sums = folder.join(SUMS);
    let checksums = std::fs::read_to_string(&sums)
        .with_context(|| format!("failed to read `{}`", sums.display()))?;
    anyhow::ensure!(
        checksums.contains(&checksum_line(
            &hex::encode(Sha256::digest(&text)),
            MANIFEST
        )),
        "`{}` does not match its checksum: the backup is corrupt, and nothing was changed",
        file.display()
    );
    let form: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("`{}` is corrupt", file.display()))?;
    let format = form.get("format").and_then(serde_json::Value::as_u64);
    anyhow::ensure!(
        format == Some(u64::from(FORMAT)),
        "`{}` has format {format:?}; this version supports format {FORMAT}",
        file.display()
    );
    let manifest: Manifest =
        serde_json::from_value(form).with_context(|| format!("`{}` is corrupt", file.display()))?;
    let names: BTreeSet<&str> = manifest
        .streams
        .iter()
        .map(|saved| saved.stream.name.as_str())
        .collect();
    anyhow::ensure!(
        names.len() == manifest.streams.len(),
        "`{}` has a duplicate stream",
        file.display()
    );
    for needed in [
        FIRST_PAUSED,
        EVENTS,
        "KV_resources",
        "KV_tags",
        "KV_decisions",
    ] {
        anyhow::ensure!(
            names.contains(needed),
            "the backup has no stream `{needed}`"
        );
    }
    for name in names {
        anyhow::ensure!(
            backup_order().any(|known| known == name),
            "the backup has a stream `{name}`, which this version does not support; use version {}, which saved it",
            manifest.sluice_version
        );
    }
    Ok(manifest)
}

/// Checks the size and the checksum of a file.
fn verify(folder: &Path, saved: &SavedStream) -> anyhow::Result<()> {
    let (name, path) = (&saved.stream.name, folder.join(&saved.file));
    anyhow::ensure!(
        Path::new(&saved.file).file_name() == Some(saved.file.as_ref()),
        "the file of stream `{name}` is outside the folder"
    );
    progress(&format!("verifying {name}"));
    let mut file =
        File::open(&path).with_context(|| format!("failed to read `{}`", path.display()))?;
    let (mut hash, mut size_bytes) = (Sha256::new(), 0_u64);
    while let Some(chunk) =
        next(&mut file).with_context(|| format!("failed to read `{}`", path.display()))?
    {
        hash.update(&chunk);
        size_bytes = size_bytes.saturating_add(u64::try_from(chunk.len())?);
    }
    anyhow::ensure!(
        size_bytes == saved.size_bytes,
        "`{}` has {size_bytes} bytes instead of {}: the backup is corrupt, and nothing was changed",
        path.display(),
        saved.size_bytes
    );
    anyhow::ensure!(
        hex::encode(hash.finalize()) == saved.sha256,
        "`{}` does not match its checksum: the backup is corrupt, and nothing was changed",
        path.display()
    );
    Ok(())
}

fn next(file: &mut impl Read) -> std::io::Result<Option<Bytes>> {
    let mut chunk = Vec::with_capacity(CHUNK);
    file.take(u64::try_from(CHUNK).unwrap_or(u64::MAX))
        .read_to_end(&mut chunk)?;
    Ok((!chunk.is_empty()).then(|| chunk.into()))
}

/// Restores the streams: first the one that pauses promotion and deletion, then state and log, last the audit.
async fn restore_streams(bus: &Bus, folder: &Path, manifest: &Manifest) -> anyhow::Result<()> {
    let order = |saved: &&SavedStream| {
        let name = saved.stream.name.as_str();
        let audit = backup_order().next() == Some(name);
        (name != FIRST_PAUSED, audit)
    };
    let mut streams: Vec<&SavedStream> = manifest.streams.iter().collect();
    streams.sort_by_key(order);
    for saved in streams {
        let name = saved.stream.name.as_str();
        let mut file = File::open(folder.join(&saved.file))?;
        let mut sent = 0;
        progress(&format!("restoring {name}"));
        bus.restore_stream(&saved.stream, || {
            let chunk = next(&mut file)?;
            sent += chunk.as_ref().map_or(0, Bytes::len);
            progress(&format!("restoring {name} {}", size(u64::try_from(sent)?)));
            Ok(chunk)
        })
        .await?;
        if name == FIRST_PAUSED {
            record_restore(bus, manifest.taken_at, &manifest.sluice_version).await?;
        }
    }
    progress("");
    Ok(())
}

/// Returns the options with which the streams of a backup were provisioned.
fn provision_options(manifest: &Manifest) -> ProvisionOptions {
    let log = manifest
        .streams
        .iter()
        .find(|saved| saved.stream.name == EVENTS);
    let setting = |name: &str| log.and_then(|log| log.stream.setting(name));
    let defaults = ProvisionOptions::default();
    ProvisionOptions {
        replicas: setting("num_replicas")
            .and_then(|replicas| usize::try_from(replicas).ok())
            .unwrap_or(defaults.replicas),
        duplicate_window: setting("duplicate_window")
            .map_or(defaults.duplicate_window, Duration::from_nanos),
        ..defaults
    }
}

fn listed(streams: &[StreamSummary]) -> String {
    let descriptions = streams.iter().map(|stream| {
        let last = stream.last_at.map(|at| format!(", the last of {at}"));
        format!(
            "{} ({}{})",
            stream.name,
            count(stream.messages, "message"),
            last.unwrap_or_default()
        )
    });
    descriptions.collect::<Vec<_>>().join("; ")
}

fn report(
    folder: &Path,
    manifest: &Manifest,
    deleted: &[StreamSummary],
    provisioned: bool,
    format: Format,
) -> anyhow::Result<()> {
    if format != Format::Table {
        let object = json!({
            "folder": folder.display().to_string(), "takenAt": manifest.taken_at, "provisioned": provisioned,
            "restored": manifest.streams.iter().map(|saved| &saved.stream.name).collect::<Vec<_>>(),
            "removed": deleted.iter().map(|stream| stream.name).collect::<Vec<_>>(),
        });
        return show(format, &[], Vec::new(), &object);
    }
    line(&format!(
        "{} restored as of {}",
        count(manifest.streams.len(), "stream"),
        time(manifest.taken_at)
    ))?;
    line(
        "Promotion and deletion are paused until the promoter has compared every target with the decisions.",
    )?;
    line(
        "Start the services now; `sluice status` shows the pause and its end. Images in a target",
    )?;
    line(
        "without a decision stay and are reported: `sluice events --subject 'sluice.v1.image.unauthorised.>'`.",
    )
}
