//! `sluice backup`: saves every stream with its consumers to a new folder, completely or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use sluice_bus::topology::{FIRST_PAUSED, LAST_PAUSED, backup_order};
use sluice_bus::{Bus, StreamSnapshot};
use sluice_service::{create_private_folder, write_private_file};
use tokio::signal::unix::{SignalKind, signal};

use crate::arguments::connection::Connection;
use crate::output::{Format, count, line, progress, show, size};

/// The version of the format.
pub(crate) const FORMAT: u32 = 1;
/// The file that lists the contents.
pub(crate) const MANIFEST: &str = "manifest.json";
/// The file with the checksums, in the format of `sha256sum -c`.
pub(crate) const SUMS: &str = "SHA256SUMS";
/// The maximum pause of the stages; it ends by itself if the backup dies.
const MAX_PAUSE: TimeDelta = TimeDelta::minutes(15);
/// How long to wait for messages in flight, in all and without progress: a failed message waits for its next attempt,
/// which does not come during the pause. Messages that are still in flight are processed again after a restore.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);
const DRAIN_IDLE_LIMIT: Duration = Duration::from_secs(3);
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Back up all state and the event log to a new folder; stages pause for a moment.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sluice backup /var/backups/sluice-2027-01-31")]
pub(crate) struct Arguments {
    /// Folder to create; it must not exist yet.
    folder: PathBuf,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Arguments {
    /// Saves all streams.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let (bus, folder) = (connection.open().await?, &*self.folder);
        anyhow::ensure!(
            fs::symlink_metadata(folder).is_err(),
            "`{}` exists; name a new folder",
            folder.display()
        );
        let present = bus.streams().await?;
        for name in backup_order() {
            anyhow::ensure!(
                present.iter().any(|stream| stream.name == name),
                "stream `{name}` does not exist; run `sluice provision`, or name another server with `--nats`"
            );
        }
        let mut partial = begin(folder)?;
        let taken_at = Utc::now();
        let saved = tokio::select! {
            // The signal handlers are registered before the backup starts.
            biased;
            error = interrupted() => Err(error),
            saved = save_all(&bus, &partial.folder) => saved,
        };
        progress("");
        // Also after a failure: the pause would end later by itself.
        bus.resume_consumers().await?;
        let streams = saved?;
        let manifest = Manifest {
            format: FORMAT,
            taken_at,
            sluice_version: env!("CARGO_PKG_VERSION").to_owned(),
            server_version: bus.server_version()?,
            streams,
        };
        let mut text = serde_json::to_string_pretty(&manifest)?;
        text.push('\n');
        write_private_file(&partial.folder.join(MANIFEST), &text)?;
        let mut sums = checksum_line(&hex::encode(Sha256::digest(&text)), MANIFEST);
        for saved in &manifest.streams {
            sums.push_str(&checksum_line(&saved.sha256, &saved.file));
        }
        write_private_file(&partial.folder.join(SUMS), &sums)?;
        finish(&mut partial, folder)?;
        report(folder, &manifest, self.output)
    }
}

/// The contents of a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) taken_at: DateTime<Utc>,
    pub(crate) sluice_version: String,
    pub(crate) server_version: String,
    pub(crate) streams: Vec<SavedStream>,
}

/// A stream in a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SavedStream {
    pub(crate) file: String,
    pub(crate) size_bytes: u64,
    pub(crate) sha256: String,
    #[serde(flatten)]
    pub(crate) stream: StreamSnapshot,
}

/// A folder that is deleted unless it is finished.
struct PartialFolder {
    folder: PathBuf,
    finished: bool,
}

impl Drop for PartialFolder {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = fs::remove_dir_all(&self.folder)
        {
            tracing::warn!(folder = %self.folder.display(), %error, "failed to delete an unfinished backup");
        }
    }
}

fn begin(folder: &Path) -> anyhow::Result<PartialFolder> {
    let name = folder
        .file_name()
        .with_context(|| format!("`{}` is not a folder name", folder.display()))?;
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(format!(".partial-{}", std::process::id()));
    let partial = PartialFolder {
        folder: folder.with_file_name(beside),
        finished: false,
    };
    create_private_folder(&partial.folder)?;
    Ok(partial)
}

fn finish(partial: &mut PartialFolder, folder: &Path) -> anyhow::Result<()> {
    let parent = match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let sync = |folder: &Path| File::open(folder).and_then(|open| open.sync_all());
    sync(&partial.folder)
        .and_then(|()| fs::rename(&partial.folder, folder))
        .and_then(|()| sync(parent))
        .with_context(|| format!("failed to finish `{}`", folder.display()))?;
    partial.finished = true;
    Ok(())
}

/// Saves the streams in order; the stages are paused while streams are saved that depend on each other.
async fn save_all(bus: &Bus, folder: &Path) -> anyhow::Result<Vec<SavedStream>> {
    let mut saved = Vec::new();
    for name in backup_order() {
        if name == FIRST_PAUSED {
            bus.pause_consumers(Utc::now() + MAX_PAUSE).await?;
            drain(bus).await?;
        }
        saved.push(save(bus, folder, name).await?);
        if name == LAST_PAUSED {
            bus.resume_consumers().await?;
        }
    }
    Ok(saved)
}

/// Waits for SIGINT or SIGTERM.
async fn interrupted() -> anyhow::Error {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminated) => drop(terminated.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
    anyhow::anyhow!("interrupted; nothing was saved")
}

async fn drain(bus: &Bus) -> anyhow::Result<()> {
    let now = tokio::time::Instant::now;
    let (deadline, mut before, mut finished_at) = (now() + DRAIN_LIMIT, u64::MAX, now());
    loop {
        let stages = bus.stage_status().await?;
        let in_flight: u64 = stages.iter().map(|stage| stage.in_flight).sum();
        if in_flight == 0 {
            return Ok(());
        }
        if in_flight < before {
            (before, finished_at) = (in_flight, now());
        }
        if now() > deadline || now() > finished_at + DRAIN_IDLE_LIMIT {
            tracing::warn!(
                in_flight,
                "messages are still in flight; they are processed again after a restore"
            );
            return Ok(());
        }
        progress(&format!(
            "waiting for {} in flight",
            count(in_flight, "message")
        ));
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

async fn save(bus: &Bus, folder: &Path, name: &str) -> anyhow::Result<SavedStream> {
    let file = format!("{name}.snapshot");
    let path = folder.join(&file);
    let failed = || format!("failed to write `{}`", path.display());
    let mut open = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .with_context(failed)?;
    let (mut hash, mut size_bytes) = (Sha256::new(), 0_u64);
    let stream = bus
        .snapshot_stream(name, |chunk| {
            open.write_all(chunk)?;
            hash.update(chunk);
            size_bytes = size_bytes.saturating_add(u64::try_from(chunk.len())?);
            progress(&format!("{name} {}", size(size_bytes)));
            Ok(())
        })
        .await?;
    open.sync_all().with_context(failed)?;
    Ok(SavedStream {
        file,
        size_bytes,
        sha256: hex::encode(hash.finalize()),
        stream,
    })
}

/// Returns the line of a file in the format of `sha256sum`.
pub(super) fn checksum_line(sha256: &str, file: &str) -> String {
    format!("{sha256}  {file}\n")
}

fn report(folder: &Path, manifest: &Manifest, format: Format) -> anyhow::Result<()> {
    let total: u64 = manifest.streams.iter().map(|saved| saved.size_bytes).sum();
    if format == Format::Table {
        return line(&format!(
            "saved {} ({}) to {}; images of the registry and keys are not included",
            count(manifest.streams.len(), "stream"),
            size(total),
            folder.display()
        ));
    }
    let streams = manifest.streams.iter().map(|saved| {
        json!({
            "stream": saved.stream.name, "messages": saved.stream.messages(), "consumers": saved.stream.consumers(),
            "sizeBytes": saved.size_bytes, "sha256": saved.sha256,
        })
    });
    let object = json!({
        "folder": folder.display().to_string(), "takenAt": manifest.taken_at, "sizeBytes": total,
        "sluiceVersion": manifest.sluice_version, "serverVersion": manifest.server_version,
        "streams": streams.collect::<Vec<_>>(),
    });
    show(format, &[], Vec::new(), &object)
}
