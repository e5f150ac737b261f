//! The processes that one run of a program started.

use std::process::{Command, Stdio};

use tokio::process::Child;

/// A process group of which nothing is left when this is dropped.
#[derive(Debug)]
pub(crate) struct ProcessGroup {
    id: Option<u32>,
    /// Whether the leader has a process namespace, which ends with it.
    is_namespace: bool,
}

impl ProcessGroup {
    /// Takes charge of the processes that a child leads.
    pub(crate) fn of(child: &Child, is_namespace: bool) -> Self {
        Self {
            id: child.id(),
            is_namespace,
        }
    }

    /// Notes that the leader has ended by itself. Processes that it left are killed.
    pub(crate) fn leader_ended(&mut self) {
        let remaining = self.id.filter(|_| !self.is_namespace);
        // The number of a group that is empty may be used again.
        if remaining.is_none_or(|id| !has_members(id)) {
            self.id = None;
        }
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let Some(id) = self.id else {
            return;
        };
        let killed = Command::new("kill")
            .args(["-KILL", "--", &format!("-{id}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        // The leader itself is killed when the child is dropped.
        if let Err(error) = killed {
            tracing::debug!(%error, "failed to kill a process group");
        }
    }
}

/// Says whether a process group has any process (proc(5), `/proc/pid/stat`: state, parent, and group follow the name).
fn has_members(group: u32) -> bool {
    let is_member = |stat: &str| {
        let rest = stat.rsplit_once(") ").map(|(_, rest)| rest);
        rest.and_then(|rest| rest.split(' ').nth(2)) == Some(&group.to_string())
    };
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok())
        .any(|stat| is_member(&stat))
}
