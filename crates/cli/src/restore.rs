//! `restore`: verifies a whole backup, then makes its streams; from the first moment promotion and deletion are paused.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use chrono::SecondsFormat;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use sluice_bus::topology::{BACKUP_ORDER, EVENTS, FIRST_PAUSED};
use sluice_bus::{Bus, ProvisionOptions, StreamSummary};
use sluice_state::record_restore;

use crate::backup::{FORMAT, MANIFEST, Manifest, SUMS, Saved, size, sum};
use crate::output::{Format, line, progress, show};

/// How much of a file is read and sent at once.
const CHUNK: usize = 128 << 10;

/// Restores everything.
pub(crate) async fn restore(
    bus: &Bus,
    folder: &Path,
    replace: bool,
    format: Format,
) -> anyhow::Result<()> {
    let manifest = read(folder)?;
    for saved in &manifest.streams {
        verify(folder, saved)?;
    }
    progress("");
    let working = bus.running_stages().await?;
    anyhow::ensure!(
        working.is_empty(),
        "services are running ({}); stop them first, so that none of them works on half of the state",
        working.join(", ")
    );
    let lost = bus.streams().await?;
    if !lost.is_empty() {
        anyhow::ensure!(
            replace,
            "the server has streams already, and nothing was changed; `--replace` would remove {}",
            listed(&lost)
        );
        if format == Format::Table {
            line(&format!("removing {}", listed(&lost)))?;
        }
    }
    for stream in &lost {
        bus.delete_stream(stream.name).await?;
    }
    let provisioned = fill(bus, folder, &manifest).await?;
    bus.resume_consumers().await?;
    tell(folder, &manifest, &lost, provisioned, format)
}

fn read(folder: &Path) -> anyhow::Result<Manifest> {
    let file = folder.join(MANIFEST);
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!(
            "failed to read `{}`; is this the folder of a backup?",
            file.display()
        )
    })?;
    let sums = folder.join(SUMS);
    let told = std::fs::read_to_string(&sums)
        .with_context(|| format!("failed to read `{}`", sums.display()))?;
    anyhow::ensure!(
        told.contains(&sum(&hex::encode(Sha256::digest(&text)), MANIFEST)),
        "`{}` is not what was saved; the backup is damaged, and nothing was changed",
        file.display()
    );
    let form: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("`{}` is damaged", file.display()))?;
    let format = form.get("format").and_then(serde_json::Value::as_u64);
    anyhow::ensure!(
        format == Some(u64::from(FORMAT)),
        "`{}` has format {format:?}; this version reads format {FORMAT}",
        file.display()
    );
    let manifest: Manifest =
        serde_json::from_value(form).with_context(|| format!("`{}` is damaged", file.display()))?;
    let names: BTreeSet<&str> = manifest
        .streams
        .iter()
        .map(|saved| saved.stream.name.as_str())
        .collect();
    anyhow::ensure!(
        names.len() == manifest.streams.len(),
        "`{}` names a stream twice",
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
            "the backup does not hold stream `{needed}`"
        );
    }
    for name in names {
        anyhow::ensure!(
            BACKUP_ORDER.contains(&name),
            "the backup holds stream `{name}`, which this version does not know; use the version that made it, {}",
            manifest.sluice_version
        );
    }
    Ok(manifest)
}

/// Compares a file with what the manifest says of it.
fn verify(folder: &Path, saved: &Saved) -> anyhow::Result<()> {
    let (name, path) = (&saved.stream.name, folder.join(&saved.file));
    anyhow::ensure!(
        Path::new(&saved.file).file_name() == Some(saved.file.as_ref()),
        "the file of stream `{name}` is not in the folder"
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
        "`{}` has {size_bytes} bytes instead of {}; the backup is damaged, and nothing was changed",
        path.display(),
        saved.size_bytes
    );
    anyhow::ensure!(
        hex::encode(hash.finalize()) == saved.sha256,
        "`{}` is not what was saved; the backup is damaged, and nothing was changed",
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

/// Makes the streams: first what pauses promotion and deletion, then the state, the log, and what follows the log.
async fn fill(bus: &Bus, folder: &Path, manifest: &Manifest) -> anyhow::Result<bool> {
    let place = |saved: &&Saved| {
        let name = saved.stream.name.as_str();
        let audit = BACKUP_ORDER.first() == Some(&name);
        (name != FIRST_PAUSED, audit)
    };
    let mut streams: Vec<&Saved> = manifest.streams.iter().collect();
    streams.sort_by_key(place);
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
    if manifest.streams.len() == BACKUP_ORDER.len() {
        return Ok(false);
    }
    // A version that had fewer streams made it.
    let log = manifest
        .streams
        .iter()
        .find(|saved| saved.stream.name == EVENTS);
    let setting = |name: &str| log.and_then(|log| log.stream.setting(name));
    let given = ProvisionOptions::default();
    let options = ProvisionOptions {
        replicas: setting("num_replicas")
            .and_then(|replicas| usize::try_from(replicas).ok())
            .unwrap_or(given.replicas),
        duplicate_window: setting("duplicate_window")
            .map_or(given.duplicate_window, Duration::from_nanos),
        ..given
    };
    bus.provision(options).await?;
    Ok(true)
}

fn listed(streams: &[StreamSummary]) -> String {
    let told = streams.iter().map(|stream| {
        let last = stream.last_at.map(|at| format!(", the last of {at}"));
        format!(
            "{} ({} messages{})",
            stream.name,
            stream.messages,
            last.unwrap_or_default()
        )
    });
    told.collect::<Vec<_>>().join("; ")
}

fn tell(
    folder: &Path,
    manifest: &Manifest,
    lost: &[StreamSummary],
    provisioned: bool,
    format: Format,
) -> anyhow::Result<()> {
    if format != Format::Table {
        let told = json!({
            "folder": folder.display().to_string(), "takenAt": manifest.taken_at, "provisioned": provisioned,
            "restored": manifest.streams.iter().map(|saved| &saved.stream.name).collect::<Vec<_>>(),
            "removed": lost.iter().map(|stream| stream.name).collect::<Vec<_>>(),
        });
        return show(format, &[], Vec::new(), &told);
    }
    line(&format!(
        "{} streams restored as of {}",
        manifest.streams.len(),
        manifest.taken_at.to_rfc3339_opts(SecondsFormat::Secs, true)
    ))?;
    line(
        "Promotion and deletion are paused until the promoter has compared every target with the decisions.",
    )?;
    line(
        "Start the services now; `sluice status` shows the pause, and its end. What stands in a target without a",
    )?;
    line(
        "decision is told as image.unauthorised and stays: `sluice events --subject 'sluice.v1.image.unauthorised.>'`.",
    )
}
