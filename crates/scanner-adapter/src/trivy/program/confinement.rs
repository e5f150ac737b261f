//! Confines a program: to a user without rights, to limits, and so that none of its processes outlives it.
//!
//! This workspace has no unsafe code, so the programs of util-linux set it all up before they become the program.

use std::fs::{self, Metadata, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown};
use std::path::Path;

/// The resources that a program may use.
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

/// A measure of confinement, which a machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// The program dies with this process and can gain no rights (`setpriv`).
    NoNewPrivileges,
    /// `setrlimit` (`prlimit`).
    Limits,
    /// A user without capabilities.
    User,
    /// A process namespace (`unshare`): all processes that the program started end with it.
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
    /// Returns what a machine without it does not prevent.
    pub(crate) const fn consequence_of_lack(self) -> &'static str {
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
    /// Uses every measure that this process could set up.
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

    /// Uses some measures only.
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

    /// Returns the user that the program runs as, if it is not that of this process.
    fn user(&self) -> Option<u32> {
        self.limits.user.filter(|_| self.has(Measure::User))
    }

    /// Returns the words of the command line that come before the program.
    pub(crate) fn wrapper(&self, lifetime: Lifetime) -> Vec<String> {
        let mut words = Vec::new();
        let mut add = |text: &str| words.extend(text.split(' ').map(str::to_owned));
        // The kernel resets this when a process changes its user, so it is set again below.
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
            // Go maps the database into its address space and reserves much more than it uses; the memory in use is data.
            format!("--data={}", limits.memory_bytes),
            format!("--as={}", limits.memory_bytes.saturating_mul(4)),
            format!("--fsize={}", limits.file_bytes),
            format!("--nofile={}", limits.open_files),
        ];
        // Counted per user: if others share the user, it would limit them too.
        if self.user().is_some() {
            options.push(format!("--nproc={}", limits.processes));
        }
        if lifetime == Lifetime::Run {
            options.push(format!("--cpu={}", limits.cpu_seconds));
        }
        options
    }

    /// Returns the bytes of memory above which Go collects garbage more often.
    pub(crate) fn soft_memory_bytes(&self) -> u64 {
        self.limits.memory_bytes / 10 * 9
    }

    /// Lets the program write into a folder. The files in it keep their owner.
    pub(crate) fn allow_write(&self, folder: &Path) -> std::io::Result<()> {
        match self.user() {
            Some(user) => chown(folder, Some(user), Some(user)),
            None => Ok(()),
        }
    }

    /// Lets the program read a folder, which keeps its owner.
    pub(crate) fn allow_read(&self, folder: &Path) -> std::io::Result<()> {
        let Some(user) = self.user() else {
            return Ok(());
        };
        chown(folder, None, Some(user))?;
        fs::set_permissions(folder, Permissions::from_mode(0o750))
    }

    /// Lets the program write everything in a folder.
    pub(crate) fn allow_write_recursive(&self, folder: &Path) -> std::io::Result<()> {
        let Some(user) = self.user() else {
            return Ok(());
        };
        self.allow_write(folder)?;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                self.allow_write_recursive(&entry.path())?;
            } else if metadata.uid() != user && has_one_name(&metadata) {
                lchown(entry.path(), Some(user), Some(user))?;
            }
        }
        Ok(())
    }
}

/// Says whether a file has no other name, under which it may belong to another user.
fn has_one_name(metadata: &Metadata) -> bool {
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
