//! Runs a program with as little as possible: a user without rights, limits, and nothing that outlives it.
//!
//! This workspace has no unsafe code, so the programs of util-linux set it all up before they become the program.

use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown};
use std::path::Path;

/// What a program may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The user and group that it runs as where this process is root.
    pub(crate) user: Option<u32>,
    /// The memory of one process in bytes, files that are mapped not counted.
    pub(crate) memory_bytes: u64,
    /// The largest file that it may write, in bytes.
    pub(crate) file_bytes: u64,
    /// Open files of one process.
    pub(crate) open_files: u64,
    /// Processes and threads of its user.
    pub(crate) processes: u64,
    /// Processor time of one run, in seconds.
    pub(crate) cpu_seconds: u64,
}

/// One of the measures, each of which a machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// It dies with this process and can gain no rights (`setpriv`).
    NoNewPrivileges,
    /// `setrlimit` (`prlimit`).
    Limits,
    /// A user of its own, with no capabilities.
    User,
    /// A process namespace (`unshare`): whatever it has started ends with it.
    ProcessNamespace,
}

/// How long a program lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// One task.
    Run,
    /// As long as this process.
    Service,
}

/// The measures that work on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Confinement {
    limits: Limits,
    measures: Vec<Measure>,
}

impl Measure {
    /// Says what a machine without it does not prevent.
    pub(crate) const fn without(self) -> &'static str {
        match self {
            Self::NoNewPrivileges => {
                "`setpriv` of util-linux does not work: the scanner can gain rights, and lives on if this process is killed"
            }
            Self::Limits => {
                "`prlimit` of util-linux does not work: the scanner has no limit of memory, files and processor time"
            }
            Self::User => {
                "`trivy.user` cannot be used, or cannot reach `trivy.binary` or `trivy.cache_dir`: the scanner runs as the user of this service"
            }
            Self::ProcessNamespace => {
                "`unshare` of util-linux makes no process namespace: what the scanner starts is killed by its process group"
            }
        }
    }
}

impl Confinement {
    /// Uses everything that this process could set up.
    pub(crate) fn full(limits: Limits) -> Self {
        let mut measures = vec![Measure::NoNewPrivileges, Measure::Limits];
        if sluice_service::is_root() {
            if limits.user.is_some() {
                measures.push(Measure::User);
            }
            measures.push(Measure::ProcessNamespace);
        }
        Self { limits, measures }
    }

    /// Uses these measures only.
    pub(crate) fn only(&self, measures: &[Measure]) -> Self {
        Self {
            limits: self.limits.clone(),
            measures: measures.to_vec(),
        }
    }

    pub(crate) fn measures(&self) -> &[Measure] {
        &self.measures
    }

    pub(crate) fn has(&self, measure: Measure) -> bool {
        self.measures.contains(&measure)
    }

    /// Returns the user that the program runs as, if it is another one than ours.
    fn user(&self) -> Option<u32> {
        self.limits.user.filter(|_| self.has(Measure::User))
    }

    /// Returns the words that come before the program and its arguments.
    pub(crate) fn wrapper(&self, lifetime: Lifetime) -> Vec<String> {
        let mut words = Vec::new();
        let mut add = |text: &str| words.extend(text.split(' ').map(str::to_owned));
        // The kernel forgets this when a process changes its user, so it is said again below.
        let dies_with_its_parent = "setpriv --pdeathsig KILL";
        if self.has(Measure::ProcessNamespace) {
            if self.has(Measure::NoNewPrivileges) {
                add(dies_with_its_parent);
                add("--");
            }
            add("unshare --pid --fork --kill-child=KILL --");
        }
        if self.has(Measure::NoNewPrivileges) || self.has(Measure::User) {
            add(dies_with_its_parent);
            add("--no-new-privs");
            if let Some(user) = self.user() {
                add(&format!("--reuid {user} --regid {user} --clear-groups"));
                add("--bounding-set=-all --inh-caps=-all");
            }
            add("--");
        }
        if self.has(Measure::Limits) {
            add("prlimit --core=0");
            self.limits(lifetime).iter().for_each(|limit| add(limit));
            add("--");
        }
        words
    }

    /// Returns the limits as options of `prlimit`.
    fn limits(&self, lifetime: Lifetime) -> Vec<String> {
        let limits = &self.limits;
        let mut options = vec![
            // Go maps the database into its address space and reserves much more than it uses; what it uses is data.
            format!("--data={}", limits.memory_bytes),
            format!("--as={}", limits.memory_bytes.saturating_mul(4)),
            format!("--fsize={}", limits.file_bytes),
            format!("--nofile={}", limits.open_files),
        ];
        // Counted per user: for one that others share too it would be a limit of theirs.
        if self.user().is_some() {
            options.push(format!("--nproc={}", limits.processes));
        }
        if lifetime == Lifetime::Run {
            options.push(format!("--cpu={}", limits.cpu_seconds));
        }
        options
    }

    /// Returns from how much memory on Go's collector works harder, in bytes.
    pub(crate) fn soft_memory_bytes(&self) -> u64 {
        self.limits.memory_bytes / 10 * 9
    }

    /// Lets the program write into a folder. What lies in it stays ours.
    ///
    /// # Errors
    /// A folder that cannot be given away.
    pub(crate) fn hand_over(&self, folder: &Path) -> std::io::Result<()> {
        match self.user() {
            Some(user) => chown(folder, Some(user), Some(user)),
            None => Ok(()),
        }
    }

    /// Lets the program read a folder that stays ours.
    ///
    /// # Errors
    /// A folder that cannot be opened to it.
    pub(crate) fn let_read(&self, folder: &Path) -> std::io::Result<()> {
        let Some(user) = self.user() else {
            return Ok(());
        };
        chown(folder, None, Some(user))?;
        fs::set_permissions(folder, Permissions::from_mode(0o750))
    }

    /// Lets the program write everything in a folder.
    ///
    /// # Errors
    /// A folder that cannot be given away.
    pub(crate) fn hand_over_all(&self, folder: &Path) -> std::io::Result<()> {
        let Some(user) = self.user() else {
            return Ok(());
        };
        self.hand_over(folder)?;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                self.hand_over_all(&entry.path())?;
            } else if metadata.uid() != user && is_alone(&metadata) {
                lchown(entry.path(), Some(user), Some(user))?;
            }
        }
        Ok(())
    }
}

/// Says whether a file has no other name: one that has may be somebody else's file.
fn is_alone(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.nlink() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn confinement(measures: &[Measure]) -> Confinement {
        Confinement {
            limits: Limits {
                user: Some(59_931),
                memory_bytes: 100,
                file_bytes: 50,
                open_files: 40,
                processes: 30,
                cpu_seconds: 20,
            },
            measures: measures.to_vec(),
        }
    }

    #[test]
    fn each_measure_is_put_before_the_program_where_it_works() {
        use Measure::{Limits, NoNewPrivileges, ProcessNamespace, User};
        for (measures, wrapper) in [
            (vec![], ""),
            (
                vec![NoNewPrivileges],
                "setpriv --pdeathsig KILL --no-new-privs --",
            ),
            (
                vec![Limits],
                "prlimit --core=0 --data=100 --as=400 --fsize=50 --nofile=40 --cpu=20 --",
            ),
            (
                vec![ProcessNamespace],
                "unshare --pid --fork --kill-child=KILL --",
            ),
            (
                vec![NoNewPrivileges, Limits, User, ProcessNamespace],
                "setpriv --pdeathsig KILL -- unshare --pid --fork --kill-child=KILL -- \
                 setpriv --pdeathsig KILL --no-new-privs --reuid 59931 --regid 59931 --clear-groups \
                 --bounding-set=-all --inh-caps=-all -- \
                 prlimit --core=0 --data=100 --as=400 --fsize=50 --nofile=40 --nproc=30 --cpu=20 --",
            ),
        ] {
            let words = confinement(&measures).wrapper(Lifetime::Run);
            assert_eq!(words.join(" "), wrapper);
        }
        // A server works for as long as this process.
        let words = confinement(&[Limits]).wrapper(Lifetime::Service);
        assert!(!words.iter().any(|word| word.starts_with("--cpu")));
    }
}
