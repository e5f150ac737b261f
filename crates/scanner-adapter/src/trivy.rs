//! Runs Trivy as a child process: in a folder and with an environment of its own, and never for longer than it may.
//!
//! It must not know what is scanned or why.

use std::ffi::{OsStr, OsString};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::process::{Child, Command};

use crate::confinement::{Confinement, Lifetime, Limits, Measure};
use crate::failure::{Failed, Kind};

/// The variables that every run is given. Others, as `TRIVY_IGNORE_UNFIXED`, could change what is found, or are secrets.
const HANDED_ON: [&str; 3] = ["PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"];
/// Those that a download is given besides; a proxy's address may hold a password.
const PROXIES: [&str; 6] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];
/// How much Trivy may allocate before Go collects, in percent of what is in use; by default it is 100.
const GOGC: &str = "400";
/// How much is read of what Trivy wrote.
const MOST_WRITTEN: u64 = 64 << 10;
/// How long the program may take to tell its version.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

/// How Trivy is started.
#[derive(Debug, Clone)]
pub(crate) struct Trivy {
    binary: PathBuf,
    confinement: Confinement,
}

/// A process group of which nothing is left when this is dropped.
#[derive(Debug)]
pub(crate) struct Group {
    id: Option<u32>,
    is_namespace: bool,
}

/// The variables that one run is given beside the common ones.
#[derive(Debug, Default)]
pub(crate) struct Variables {
    own: Vec<(&'static str, SecretString)>,
    proxies: bool,
}

impl Variables {
    /// Returns the variables of a run that fetches something from outside.
    pub(crate) const fn of_download() -> Self {
        Self {
            own: Vec::new(),
            proxies: true,
        }
    }

    /// Adds a variable.
    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, value: &SecretString) -> Self {
        self.own.push((name, value.clone()));
        self
    }
}

impl Trivy {
    /// Finds out whether the program runs at all, and how it can be confined here.
    ///
    /// # Errors
    /// A program that cannot be run.
    pub(crate) async fn probe(
        binary: &Path,
        folder: &Path,
        limits: Limits,
    ) -> anyhow::Result<Self> {
        // One without a slash is looked for in PATH; a relative one would be looked for in another folder.
        let is_path = binary.components().count() > 1;
        let binary = if is_path {
            std::path::absolute(binary)?
        } else {
            binary.to_owned()
        };
        let confinement = Confinement::full(limits);
        let mut trivy = Self {
            binary,
            confinement: confinement.clone(),
        };
        if trivy.works(folder).await.is_ok() {
            return Ok(trivy);
        }
        trivy.confinement = confinement.only(&[]);
        trivy.works(folder).await.with_context(|| {
            format!(
                "failed to run `{}`; install Trivy or set `trivy.binary`",
                trivy.binary.display()
            )
        })?;
        // Each is tried together with those before it: what works alone may not work after another one.
        let mut measures = Vec::new();
        for measure in confinement.measures() {
            measures.push(*measure);
            trivy.confinement = confinement.only(&measures);
            if trivy.works(folder).await.is_err() {
                measures.pop();
            }
        }
        trivy.confinement = confinement.only(&measures);
        for measure in confinement.measures() {
            if !measures.contains(measure) {
                tracing::warn!(
                    reason = measure.without(),
                    "the scanner is confined less than it could be"
                );
            }
        }
        Ok(trivy)
    }

    /// Returns what the program says of its version.
    ///
    /// # Errors
    /// A program that cannot be run.
    pub(crate) async fn version(&self, folder: &Path) -> anyhow::Result<String> {
        let mut command = self.command(folder, &Variables::default(), Lifetime::Run);
        command.arg("--version");
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let output = tokio::time::timeout(PROBE_LIMIT, command.output()).await??;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs the program in a folder of its own, and lets it write there.
    async fn works(&self, folder: &Path) -> anyhow::Result<()> {
        let folder = tempfile::tempdir_in(folder)?;
        let none = Variables::default();
        let version = ["--version".to_owned()];
        self.run(folder.path(), &version, &none, PROBE_LIMIT)
            .await?;
        if self.confinement.has(Measure::User) {
            let reachable = Self {
                binary: "test".into(),
                confinement: self.confinement.clone(),
            };
            let question = ["-w".to_owned(), text(folder.path())];
            reachable
                .run(folder.path(), &question, &none, PROBE_LIMIT)
                .await?;
        }
        Ok(())
    }

    /// Returns a command that runs in a folder, alone in its process group, and dies with this process.
    ///
    /// The kernel kills it when the thread that started it ends; the runtime's workers live as long as the process.
    pub(crate) fn command(
        &self,
        folder: &Path,
        variables: &Variables,
        lifetime: Lifetime,
    ) -> Command {
        let mut words = self.confinement.wrapper(lifetime).into_iter();
        let mut command = match words.next() {
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        command
            .env_clear()
            .envs(environment(&HANDED_ON))
            // Trivy would read `trivy.yaml` and `.trivyignore` here, and an account's files at home.
            .current_dir(folder)
            .env("HOME", folder)
            .env("TMPDIR", folder)
            // Most of a run is its start, and much of that the collector's. Beyond the soft limit it works as always.
            .env("GOGC", GOGC)
            .env(
                "GOMEMLIMIT",
                self.confinement.soft_memory_bytes().to_string(),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        if variables.proxies {
            command.envs(environment(&PROXIES));
        }
        for (name, value) in &variables.own {
            command.env(name, value.expose_secret());
        }
        command
    }

    /// Lets Trivy write everything in a folder.
    ///
    /// # Errors
    /// A folder that cannot be given away.
    pub(crate) fn hand_over_all(&self, folder: &Path) -> std::io::Result<()> {
        self.confinement.hand_over_all(folder)
    }

    /// Lets Trivy read a folder, and nobody else.
    ///
    /// # Errors
    /// A folder that cannot be opened to it.
    pub(crate) fn let_read(&self, folder: &Path) -> std::io::Result<()> {
        self.confinement.let_read(folder)
    }

    /// Takes charge of the processes that a child leads.
    pub(crate) fn group(&self, child: &Child) -> Group {
        Group {
            id: child.id(),
            is_namespace: self.confinement.has(Measure::ProcessNamespace),
        }
    }

    /// Runs Trivy to its end; when this is dropped or the time is over, nothing of it is left.
    ///
    /// # Errors
    /// A run that did not succeed, told by what it wrote.
    pub(crate) async fn run(
        &self,
        folder: &Path,
        arguments: &[String],
        variables: &Variables,
        limit: Duration,
    ) -> Result<(), Failed> {
        let broken = |error: std::io::Error| Failed::new(Kind::Unknown, error.to_string());
        self.confinement.hand_over(folder).map_err(broken)?;
        let mut written = tempfile::tempfile_in(folder).map_err(broken)?;
        let mut command = self.command(folder, variables, Lifetime::Run);
        command.args(arguments);
        command.stderr(written.try_clone().map_err(broken)?);
        let mut child = command.spawn().map_err(broken)?;
        // Declared after the child, so that its whole group is killed before the child is given up.
        let mut group = self.group(&child);
        let ended = tokio::time::timeout(limit, child.wait()).await;
        let Ok(status) = ended else {
            return Err(Failed::new(Kind::TimedOut, ""));
        };
        group.ended();
        let status = status.map_err(broken)?;
        if status.success() {
            return Ok(());
        }
        let text = tail(&mut written).map_err(broken)?;
        let mut failed = Failed::of(&text);
        if failed.told.is_empty() {
            failed.told = status.to_string();
        }
        Err(failed)
    }
}

impl Group {
    /// Says that its leader has ended by itself. What it has started ends with it.
    pub(crate) fn ended(&mut self) {
        let left = self.id.filter(|_| !self.is_namespace);
        // The number of a group that is empty may be used again.
        if left.is_none_or(|id| !has_members(id)) {
            self.id = None;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let Some(id) = self.id else {
            return;
        };
        let killed = StdCommand::new("kill")
            .args(["-KILL", "--", &format!("-{id}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        // The leader itself is killed by whoever drops the child.
        if let Err(error) = killed {
            tracing::debug!(%error, "a process group could not be killed");
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

fn environment(names: &[&'static str]) -> impl Iterator<Item = (&'static str, OsString)> {
    names
        .iter()
        .filter_map(|name| Some((*name, std::env::var_os(name)?)))
}

/// Reads the end of what was written.
pub(crate) fn tail(file: &mut std::fs::File) -> std::io::Result<String> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MOST_WRITTEN)))?;
    let mut bytes = Vec::new();
    file.take(MOST_WRITTEN).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Makes an argument of a path.
pub(crate) fn text(path: &Path) -> String {
    let text: &OsStr = path.as_ref();
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
