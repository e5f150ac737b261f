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

use crate::failure::{Failed, Kind};

/// The variables that are handed on. Others, as `TRIVY_IGNORE_UNFIXED`, could change what is found.
const HANDED_ON: [&str; 9] = [
    "PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];
/// How much is read of what Trivy wrote.
const MOST_WRITTEN: u64 = 64 << 10;
/// How long the program may take to tell its version.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

/// How Trivy is started.
#[derive(Debug, Clone)]
pub(crate) struct Trivy {
    binary: PathBuf,
    /// Whether `setpriv` can make the kernel kill a child when this process is gone.
    tied: bool,
}

/// A process group of which nothing is left when this is dropped.
#[derive(Debug)]
pub(crate) struct Group {
    id: Option<u32>,
}

/// The variables that one run is given beside the common ones.
#[derive(Debug, Default)]
pub(crate) struct Variables(Vec<(&'static str, SecretString)>);

impl Variables {
    /// Adds a variable.
    #[must_use]
    pub(crate) fn with(mut self, name: &'static str, value: &SecretString) -> Self {
        self.0.push((name, value.clone()));
        self
    }
}

impl Trivy {
    /// Finds out whether the program runs at all, and whether it can be tied to this process.
    ///
    /// # Errors
    /// A program that cannot be run.
    pub(crate) async fn probe(binary: &Path, folder: &Path) -> anyhow::Result<Self> {
        // One without a slash is looked for in PATH; a relative one would be looked for in another folder.
        let absolute = binary.components().count() > 1;
        let mut trivy = Self {
            binary: if absolute {
                std::path::absolute(binary)?
            } else {
                binary.to_owned()
            },
            tied: true,
        };
        let version = ["--version".to_owned()];
        if trivy
            .run(folder, &version, &Variables::default(), PROBE_LIMIT)
            .await
            .is_ok()
        {
            return Ok(trivy);
        }
        trivy.tied = false;
        trivy
            .run(folder, &version, &Variables::default(), PROBE_LIMIT)
            .await
            .with_context(|| {
                format!(
                    "failed to run `{}`; install Trivy or set `trivy.binary`",
                    binary.display()
                )
            })?;
        tracing::warn!(
            "`setpriv` of util-linux was not found: if this process is killed, its Trivy server is left running"
        );
        Ok(trivy)
    }

    /// Returns a command that runs in a folder, alone in its process group, and dies with this process.
    ///
    /// The kernel kills it when the thread that started it ends; the runtime's workers live as long as the process.
    pub(crate) fn command(&self, folder: &Path, variables: &Variables) -> Command {
        let mut command = if self.tied {
            let mut command = Command::new("setpriv");
            command
                .args(["--pdeathsig", "KILL", "--"])
                .arg(&self.binary);
            command
        } else {
            Command::new(&self.binary)
        };
        command
            .env_clear()
            .envs(environment())
            // Trivy would read `trivy.yaml` and `.trivyignore` here, and an account's files at home.
            .current_dir(folder)
            .env("HOME", folder)
            .env("TMPDIR", folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        for (name, value) in &variables.0 {
            command.env(name, value.expose_secret());
        }
        command
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
        let mut written = tempfile::tempfile_in(folder).map_err(broken)?;
        let mut command = self.command(folder, variables);
        command.args(arguments);
        command.stderr(written.try_clone().map_err(broken)?);
        let mut child = command.spawn().map_err(broken)?;
        // Declared after the child, so that its whole group is killed before the child is given up.
        let mut group = Group::of(&child);
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
    /// Takes charge of the group that a child leads.
    pub(crate) fn of(child: &Child) -> Self {
        Self { id: child.id() }
    }

    /// Says that its leader has ended by itself; its number may then be used again.
    pub(crate) const fn ended(&mut self) {
        self.id = None;
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

fn environment() -> impl Iterator<Item = (&'static str, OsString)> {
    HANDED_ON
        .into_iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)))
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
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use tokio::time::Instant;

    use super::*;

    /// A program that does what a script says.
    fn program(folder: &Path, script: &str) -> Trivy {
        let binary = folder.join("program");
        fs::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&binary, fs::Permissions::from_mode(0o700)).unwrap();
        Trivy {
            binary,
            tied: false,
        }
    }

    async fn run(trivy: &Trivy, folder: &Path, limit: Duration) -> Result<(), Failed> {
        let variables = Variables::default().with("TRIVY_PASSWORD", &"hunter2".into());
        trivy
            .run(folder, &["a b".to_owned()], &variables, limit)
            .await
    }

    fn alive(id: &str) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", id.trim()));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[tokio::test]
    async fn a_run_has_its_own_folder_and_environment() {
        let folder = tempfile::tempdir().unwrap();
        let trivy = program(
            folder.path(),
            "env > env; pwd > pwd; echo \"$1\" > argument",
        );
        run(&trivy, folder.path(), PROBE_LIMIT).await.unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        let environment = read("env");
        assert!(environment.contains("TRIVY_PASSWORD=hunter2"));
        assert!(environment.contains(&format!("HOME={}", folder.path().display())));
        // The test itself has this one.
        assert!(!environment.contains("CARGO_MANIFEST_DIR="));
        assert_eq!(
            Path::new(read("pwd").trim()),
            folder.path().canonicalize().unwrap()
        );
        assert_eq!(read("argument"), "a b\n");
    }

    #[tokio::test]
    async fn a_failed_run_is_told_by_what_it_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let trivy = program(
            folder.path(),
            "echo 'MANIFEST_UNKNOWN: unknown' >&2; exit 1",
        );
        let failed = run(&trivy, folder.path(), PROBE_LIMIT).await.unwrap_err();
        assert_eq!(failed.kind, Kind::Gone);
        let silent = program(folder.path(), "kill -KILL $$");
        let failed = run(&silent, folder.path(), PROBE_LIMIT).await.unwrap_err();
        assert!(failed.to_string().contains("signal: 9"), "{failed}");
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_run_that_takes_too_long() {
        let folder = tempfile::tempdir().unwrap();
        let trivy = program(
            folder.path(),
            "sleep 600 & echo $! > child; echo $$ > leader; wait",
        );
        let start = Instant::now();
        let failed = run(&trivy, folder.path(), Duration::from_secs(1))
            .await
            .unwrap_err();
        assert_eq!(failed.kind, Kind::TimedOut);
        assert!(start.elapsed() < PROBE_LIMIT);
        for name in ["child", "leader"] {
            let id = fs::read_to_string(folder.path().join(name)).unwrap();
            while alive(&id) {
                assert!(start.elapsed() < PROBE_LIMIT, "{name} is alive");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    #[tokio::test]
    async fn a_program_that_is_missing_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let error = Trivy::probe(&missing, folder.path()).await.unwrap_err();
        assert!(format!("{error:#}").contains("trivy.binary"), "{error:#}");
    }
}
