//! `sluice up` in a folder of its own, on free ports.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::secrets::secrets_folder;
use crate::servers::Process;
use crate::{binary, root, wait_for};

/// A running `sluice up`; it is asked to stop when it is dropped.
#[derive(Debug)]
pub struct Up {
    process: Process,
    data: PathBuf,
}

impl Up {
    /// Returns the command that starts it on a data folder.
    pub fn command(data: &Path) -> Command {
        let mut command = Command::new(binary("sluice"));
        if std::env::var_os("SLUICE_TOOLS").is_none() {
            command.env("SLUICE_TOOLS", root().join(".tools"));
        }
        // Where no database is: a test that wants one says where.
        command.env("SLUICE__TRIVY__DATABASE_REPOSITORY", "127.0.0.1:9/none:2");
        // Beside the data folder, so that a test can fill it before the start.
        command.env("SLUICE_SECRETS", secrets_folder(data.parent().unwrap()));
        command.arg("--data").arg(data).arg("up");
        for server in ["NATS", "REGISTRY", "TOKENS", "API", "HEALTH"] {
            command.env(format!("SLUICE_{server}_LISTEN"), "127.0.0.1:0");
        }
        command
    }

    /// Starts it and waits until it is ready.
    pub fn start(data: &Path, change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Self::command(data);
        change(&mut command);
        let log = data.with_extension("log");
        // A killed one leaves its file behind, which is not a sign that this one is ready.
        fs::remove_file(data.join("endpoints.json")).ok();
        let child = command
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut process = Process(child);
        wait_for(
            &format!("`sluice up`; its log is {}", log.display()),
            60,
            || {
                let ended = process.0.try_wait().unwrap();
                assert!(
                    ended.is_none(),
                    "it ended: {}",
                    fs::read_to_string(&log).unwrap()
                );
                data.join("endpoints.json").exists().then_some(())
            },
        );
        Self {
            process,
            data: data.to_owned(),
        }
    }

    /// Returns what it serves.
    pub fn endpoints(&self) -> Value {
        let text = fs::read_to_string(self.data.join("endpoints.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Returns what it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.data.with_extension("log")).unwrap()
    }

    /// Runs the command against it, which must succeed, and returns what it wrote.
    pub fn sluice(&self, arguments: &[&str]) -> String {
        let output = sluice(&self.data, arguments);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "sluice {arguments:?}: {complaint}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Sends it a signal, as in `TERM`.
    pub fn signal(&self, name: &str) {
        let process = self.process.0.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &process]).status();
        assert!(sent.unwrap().success());
    }

    /// Sends a signal, as in `KILL`, to the server that runs with this configuration file.
    pub fn signal_server(&self, config: &str, signal: &str) {
        let config = self.data.join("config").join(config);
        let server = find(&config).next().unwrap();
        let sent = Command::new("kill")
            .args(["-s", signal, &server.0])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Waits until it has ended and returns its exit code.
    pub fn ended(&mut self) -> Option<i32> {
        let status = wait_for("`sluice up` to end", 60, || {
            self.process.0.try_wait().unwrap()
        });
        status.code()
    }

    /// Asks it to stop and returns its exit code.
    pub fn stop(mut self) -> Option<i32> {
        self.signal("TERM");
        self.ended()
    }
}

impl Drop for Up {
    /// A failing test must not leave servers behind.
    fn drop(&mut self) {
        if matches!(self.process.0.try_wait(), Ok(None)) {
            self.signal("TERM");
            self.ended();
        }
    }
}

/// Runs the command on a data folder.
pub fn sluice(data: &Path, arguments: &[&str]) -> Output {
    Command::new(binary("sluice"))
        .arg("--data")
        .arg(data)
        .args(arguments)
        .output()
        .unwrap()
}

/// Returns the command lines of all processes that have a file of the folder among their arguments.
pub fn processes_on(folder: &Path) -> Vec<String> {
    find(folder).map(|(_, line)| line).collect()
}

/// Returns how many of these processes are `sluice` itself or one of its two servers.
pub fn servers_on(folder: &Path) -> usize {
    let is_server = |line: &&String| !line.contains("trivy");
    processes_on(folder).iter().filter(is_server).count()
}

/// Returns number and command line of all processes that have this path among their arguments.
fn find(path: &Path) -> impl Iterator<Item = (String, String)> {
    let path = path.to_str().unwrap().to_owned();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| {
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            Some((entry.file_name().into_string().ok()?, line))
        })
        .filter(move |(_, line)| line.contains(&path))
}
