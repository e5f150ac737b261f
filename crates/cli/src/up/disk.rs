//! A disk of nats-server that was full: room alone does not help, its streams store nothing until it is started anew.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sluice_bus::NOT_STORING;
use sluice_service::Host;
use tokio::time::sleep;

use super::child::Restart;

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// The least time between two starts.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much room there has to be.
const ROOM_BYTES: usize = 4 << 20;
static CHUNK: [u8; 64 << 10] = [0; 64 << 10];

/// Starts nats-server anew when a service has found that it stores nothing, and there is room again.
pub(crate) async fn mend(host: Host, folder: PathBuf, restart: Restart) -> anyhow::Result<()> {
    let stopping = host.stopping();
    loop {
        tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            () = sleep(LOOK) => {}
        }
        let waits = host.waits_for();
        if !waits.iter().any(|what| what.contains(NOT_STORING)) || !has_room(&folder) {
            continue;
        }
        tracing::warn!(
            disk = %folder.display(),
            "nats-server stored nothing and there is room on its disk; it is started anew"
        );
        restart.ask();
        tokio::select! {
            () = stopping.cancelled() => return Ok(()),
            () = sleep(PATIENCE) => {}
        }
    }
}

/// Says whether something of a fair size can be written here.
fn has_room(folder: &Path) -> bool {
    let file = folder.join("room");
    let write = || -> std::io::Result<()> {
        let mut probe = File::create(&file)?;
        for _ in 0..ROOM_BYTES / CHUNK.len() {
            probe.write_all(&CHUNK)?;
        }
        probe.sync_all()
    };
    let written = write();
    fs::remove_file(&file).ok();
    written.is_ok()
}
