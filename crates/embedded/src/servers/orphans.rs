//! Stops servers of a run that was killed before it could stop them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::child::signal;

/// Only these programs are stopped, not for example an editor with a file of the data folder.
const PROGRAMS: [&str; 4] = ["nats-server", "docker-registry", "registry", "trivy"];
/// How long a server may take to stop after SIGTERM.
const LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// Stops the servers on a data folder; the caller holds its lock, so no other process uses them.
///
/// Without `/proc` no server is found.
pub(crate) async fn stop(data: &Path) -> anyhow::Result<()> {
    for process in &running(data) {
        tracing::warn!(process, "stopping an orphaned server");
        signal("TERM", *process).await;
    }
    let deadline = Instant::now() + LIMIT;
    while !running(data).is_empty() && Instant::now() < deadline {
        sleep(PAUSE).await;
    }
    for process in running(data) {
        tracing::warn!(process, "killing an orphaned server that did not stop");
        signal("KILL", process).await;
        sleep(PAUSE).await;
    }
    let remaining = running(data);
    anyhow::ensure!(
        remaining.is_empty(),
        "failed to stop orphaned servers on `{}`; kill these processes: {remaining:?}",
        data.display()
    );
    Ok(())
}

fn running(data: &Path) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|process| {
            let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            is_server_on(data, &String::from_utf8_lossy(&line))
        })
        .collect()
}

/// Tells whether a command line is one of the programs with a file of the data folder among its arguments.
fn is_server_on(data: &Path, line: &str) -> bool {
    let mut words = line.split('\0');
    let program = words.next().map(Path::new).and_then(Path::file_name);
    program.is_some_and(|name| PROGRAMS.iter().any(|known| *known == name))
        && words.any(|word| Path::new(word).starts_with(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_on_the_folder_are_stopped() {
        let data = Path::new("/srv/sluice-data");
        for (line, ours) in [
            (
                "/opt/bin/nats-server\0-c\0/srv/sluice-data/config/nats-server.conf\0",
                true,
            ),
            (
                "docker-registry\0serve\0/srv/sluice-data/config/registry.yml\0",
                true,
            ),
            (
                "nats-server\0-c\0/srv/sluice-data-2/config/nats-server.conf\0",
                false,
            ),
            ("nats-server\0-c\0/etc/nats-server.conf\0", false),
            ("tail\0-f\0/srv/sluice-data/logs/nats-server.log\0", false),
            ("", false),
        ] {
            assert_eq!(is_server_on(data, line), ours, "{line:?}");
        }
    }
}
