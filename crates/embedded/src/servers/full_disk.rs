//! Restarts nats-server after its disk was full: its streams store nothing until a restart, even with free space.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sluice_bus::NOT_STORING;
use sluice_service::Host;
use tokio::time::sleep;

use super::child::RestartHandle;

/// How often the bus is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// The minimum time between two restarts.
const RESTART_INTERVAL: Duration = Duration::from_secs(30);
/// The space that must be free.
const FREE_BYTES: usize = 4 << 20;
static CHUNK: [u8; 64 << 10] = [0; 64 << 10];

/// Restarts nats-server when a service reports that it stores nothing and its disk has free space again.
pub(super) async fn restart_when_writable(
    host: Host,
    folder: PathBuf,
    restart: RestartHandle,
) -> anyhow::Result<()> {
    let stopping = host.stopping();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            () = sleep(CHECK_INTERVAL) => {}
        }
        let reports = host.waits_for();
        if !reports.iter().any(|text| text.contains(NOT_STORING)) || !has_space(&folder) {
            continue;
        }
        tracing::warn!(
            disk = %folder.display(),
            "nats-server stores nothing although its disk has free space; restarting it"
        );
        restart.request();
        tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            () = sleep(RESTART_INTERVAL) => {}
        }
    }
}

/// Tells whether a file of some size can be written to a folder.
fn has_space(folder: &Path) -> bool {
    let file = folder.join("space-probe");
    let write = || -> std::io::Result<()> {
        let mut probe = File::create(&file)?;
        for _ in 0..FREE_BYTES / CHUNK.len() {
            probe.write_all(&CHUNK)?;
        }
        probe.sync_all()
    };
    let written = write();
    fs::remove_file(&file).ok();
    written.is_ok()
}
