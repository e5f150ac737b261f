//! Runs Trivy as a child process, in a folder and with an environment of its own, and within a time limit.
//!
//! It must not know what is scanned or why.

use std::ffi::{OsStr, OsString};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::trivy::failure::{FailureKind, TrivyFailure};
use crate::trivy::program::confinement::{Confinement, Lifetime, Limits, Measure};
use crate::trivy::program::process_group::ProcessGroup;

pub(crate) mod confinement;
mod process_group;

/// The variables that every run inherits. Others, like `TRIVY_IGNORE_UNFIXED`, could change the findings, or are secrets.
const INHERITED: [&str; 3] = ["PATH", "SSL_CERT_FILE", "SSL_CERT_DIR"];
/// The variables that a download inherits too; the address of a proxy may hold a password.
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
/// How many bytes are read from the end of Trivy's output.
const MAX_OUTPUT_BYTES: u64 = 64 << 10;
/// How long the program may take to print its version.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

/// The program, and how it is confined.
#[derive(Debug, Clone)]
pub(crate) struct TrivyProgram {
    binary: PathBuf,
    /// The folder of temporary files, in which each run gets a folder of its own.
    temporary: PathBuf,
    confinement: Confinement,
}

/// The variables that one run gets besides the inherited ones.
#[derive(Debug, Default)]
pub(crate) struct Variables {
    own: Vec<(&'static str, SecretString)>,
    proxies: bool,
}

impl Variables {
    /// Returns the variables of a run that downloads a database.
    pub(crate) const fn for_download() -> Self {
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

impl TrivyProgram {
    /// Finds out whether the program runs at all, and how it can be confined on this machine.
    pub(crate) async fn probe(
        binary: &Path,
        temporary: &Path,
        limits: Limits,
    ) -> anyhow::Result<Self> {
        // A name without a slash is searched in PATH. A relative path would be one of the folder of the run.
        let is_path = binary.components().count() > 1;
        let binary = if is_path {
            std::path::absolute(binary)?
        } else {
            binary.to_owned()
        };
        let confinement = Confinement::full(limits);
        let mut program = Self {
            binary,
            temporary: temporary.to_owned(),
            confinement: confinement.clone(),
        };
        if program.works().await.is_ok() {
            return Ok(program);
        }
        program.confinement = confinement.only(&[]);
        program.works().await.with_context(|| {
            format!(
                "failed to run `{}`; install Trivy or set `trivy.binary`",
                program.binary.display()
            )
        })?;
        // Each measure is tried together with those before it, for it may work alone and not after another one.
        let mut measures = Vec::new();
        for measure in confinement.measures() {
            measures.push(*measure);
            program.confinement = confinement.only(&measures);
            if program.works().await.is_err() {
                measures.pop();
            }
        }
        program.confinement = confinement.only(&measures);
        for measure in confinement.measures() {
            if !measures.contains(measure) {
                tracing::warn!(
                    reason = measure.consequence_of_lack(),
                    "the scanner is confined less than it could be"
                );
            }
        }
        Ok(program)
    }

    /// Returns the version that the program prints.
    pub(crate) async fn version(&self) -> anyhow::Result<String> {
        let mut command = self.command(&self.temporary, &Variables::default(), Lifetime::Run);
        command.arg("--version");
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let output = tokio::time::timeout(PROBE_LIMIT, command.output()).await??;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs the program in a folder of its own, and lets it write there.
    async fn works(&self) -> anyhow::Result<()> {
        let folder = self.temporary_folder()?;
        let none = Variables::default();
        let version = ["--version".to_owned()];
        self.run(folder.path(), &version, &none, PROBE_LIMIT)
            .await?;
        if self.confinement.has(Measure::User) {
            let test = Self {
                binary: "test".into(),
                ..self.clone()
            };
            let is_writable = ["-w".to_owned(), path_argument(folder.path())];
            test.run(folder.path(), &is_writable, &none, PROBE_LIMIT)
                .await?;
        }
        Ok(())
    }

    /// Makes a temporary folder.
    pub(crate) fn temporary_folder(&self) -> std::io::Result<TempDir> {
        tempfile::tempdir_in(&self.temporary)
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
            .envs(environment(&INHERITED))
            // Trivy reads `trivy.yaml` and `.trivyignore` in its folder, and credentials at home.
            .current_dir(folder)
            .env("HOME", folder)
            .env("TMPDIR", folder)
            // Most of a run is its start, and much of that is garbage collection. Beyond the soft limit it is as usual.
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
    pub(crate) fn allow_write_recursive(&self, folder: &Path) -> std::io::Result<()> {
        self.confinement.allow_write_recursive(folder)
    }

    /// Lets Trivy read a folder, and nobody else.
    pub(crate) fn allow_read(&self, folder: &Path) -> std::io::Result<()> {
        self.confinement.allow_read(folder)
    }

    /// Takes charge of the processes that a child leads.
    pub(crate) fn process_group(&self, child: &Child) -> ProcessGroup {
        ProcessGroup::of(child, self.confinement.has(Measure::ProcessNamespace))
    }

    /// Runs Trivy until it ends. When this is dropped or the time is over, all its processes are killed.
    pub(crate) async fn run(
        &self,
        folder: &Path,
        arguments: &[String],
        variables: &Variables,
        limit: Duration,
    ) -> Result<(), TrivyFailure> {
        self.confinement.allow_write(folder)?;
        let mut output = tempfile::tempfile_in(folder)?;
        let mut command = self.command(folder, variables, Lifetime::Run);
        command.args(arguments);
        command.stderr(output.try_clone()?);
        let mut child = command.spawn()?;
        // Declared after the child, so that its whole group is killed before the child is dropped.
        let mut group = self.process_group(&child);
        let ended = tokio::time::timeout(limit, child.wait()).await;
        let Ok(status) = ended else {
            return Err(TrivyFailure::new(FailureKind::TimedOut, ""));
        };
        group.leader_ended();
        let status = status?;
        if status.success() {
            return Ok(());
        }
        let output = read_end(&mut output)?;
        let mut failure = TrivyFailure::from_output(&output);
        if failure.message.is_empty() {
            failure.message = status.to_string();
        }
        Err(failure)
    }
}

fn environment(names: &[&'static str]) -> impl Iterator<Item = (&'static str, OsString)> {
    names
        .iter()
        .filter_map(|name| Some((*name, std::env::var_os(name)?)))
}

/// Reads the end of an output.
pub(crate) fn read_end(file: &mut std::fs::File) -> std::io::Result<String> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_OUTPUT_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Makes an argument of a path.
pub(crate) fn path_argument(path: &Path) -> String {
    let text: &OsStr = path.as_ref();
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
