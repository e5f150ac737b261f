//! nats-server and Distribution as child processes on free ports.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::{tool, wait_for};

/// A child process that is killed when it is dropped.
#[derive(Debug)]
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A nats-server with JetStream in a folder of its own.
#[derive(Debug)]
pub struct Nats {
    /// Its address.
    pub url: String,
    _process: Process,
    _folder: TempDir,
}

impl Nats {
    /// Starts one.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = Command::new(tool("nats-server"))
            .args(["-a", "127.0.0.1", "-p", "-1", "-js", "-sd"])
            .arg(folder.path().join("data"))
            .arg("--ports_file_dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let url = wait_for("nats-server to say its port", 20, || {
            let file = fs::read_dir(folder.path())
                .unwrap()
                .flatten()
                .map(|entry| entry.path());
            let file = file
                .into_iter()
                .find(|path| path.extension().is_some_and(|end| end == "ports"))?;
            let ports: serde_json::Value =
                serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
            Some(ports["nats"][0].as_str()?.to_owned())
        });
        Self {
            url,
            _process: Process(process),
            _folder: folder,
        }
    }
}

/// A Distribution registry without authentication, in a folder of its own.
#[derive(Debug)]
pub struct Registry {
    /// Its host and port.
    pub host: String,
    process: Process,
    folder: TempDir,
}

impl Registry {
    /// Starts one.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (process, host) = Self::launch(&folder, "127.0.0.1:0");
        Self {
            host,
            process,
            folder,
        }
    }

    /// Ends it at once.
    pub fn stop(&mut self) {
        self.process.0.kill().unwrap();
        self.process.0.wait().unwrap();
    }

    /// Starts it again with what it held, at the same address.
    pub fn restart(&mut self) {
        self.stop();
        (self.process, _) = Self::launch(&self.folder, &self.host);
    }

    fn launch(folder: &TempDir, address: &str) -> (Process, String) {
        let config = folder.path().join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info, formatter: json, accesslog: {{disabled: true}}}}\n\
                 storage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
                 http: {{addr: '{address}', relativeurls: true}}\n",
                folder.path().join("data").display()
            ),
        )
        .unwrap();
        let log = folder.path().join("log");
        let process = Command::new(tool("docker-registry"))
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let host = wait_for("docker-registry to say its port", 20, || port_of(&log));
        (Process(process), host)
    }
}

fn port_of(log: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(log).ok()?.read_to_string(&mut text).ok()?;
    let (_, rest) = text.split_once("listening on ")?;
    let host: String = rest
        .chars()
        .take_while(|c| c.is_ascii_digit() || matches!(c, '.' | ':'))
        .collect();
    rest.contains('\n').then_some(host)
}
