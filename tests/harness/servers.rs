//! nats-server and Distribution as child processes on free ports.

use std::fs::{self, File};
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sluice_bus::ServerConfig;
use sluice_gateway::keys::{Keys, PASSWORDS};
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
    process: Process,
    folder: TempDir,
}

impl Nats {
    /// Kills it at once.
    pub fn kill(&mut self) {
        self.process.0.kill().unwrap();
        self.process.0.wait().unwrap();
    }

    /// Stops it in its tracks, so that it answers nobody, or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        let signal = if frozen { "-STOP" } else { "-CONT" };
        let process = self.process.0.id().to_string();
        let sent = Command::new("kill").args([signal, &process]).status();
        assert!(sent.unwrap().success());
    }

    /// Starts one that anybody may do everything at.
    pub fn start() -> Self {
        Self::launch(|command, folder| {
            command.args(["-a", "127.0.0.1", "-p", "-1", "-js", "-sd"]);
            command.arg(folder.join("data"));
            command.arg("--ports_file_dir").arg(folder);
        })
    }

    /// Starts one with the users and permissions of an installation.
    ///
    /// Whoever gives no name is the test itself, which may do everything.
    pub fn guarded(keys: &Keys) -> Self {
        Self::configured(keys, |config| {
            let of_the_test =
                "jetstream: enabled\n    users: [\n      { user: test, password: test }";
            config.replacen("jetstream: enabled\n    users: [", of_the_test, 1)
                + "no_auth_user: test\n"
        })
    }

    /// Starts one with the configuration of an installation, changed by the test.
    pub fn configured(keys: &Keys, change: impl FnOnce(&str) -> String) -> Self {
        Self::launch(|command, folder| {
            let store = folder.join("data");
            let config = ServerConfig {
                listen: "127.0.0.1:0".parse().unwrap(),
                store: &store,
                ports: Some(folder),
                tls: None,
                passwords: PASSWORDS,
            };
            // Tests kill processes, not machines, and the disk is what they would wait for most.
            let config = change(&config.text().replace(", sync_interval: always", ""));
            fs::write(folder.join("nats.conf"), config).unwrap();
            fs::copy(keys.nats_passwords(), folder.join(PASSWORDS)).unwrap();
            command.arg("-c").arg(folder.join("nats.conf"));
        })
    }

    fn launch(arrange: impl FnOnce(&mut Command, &Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(tool("nats-server"));
        arrange(&mut command, folder.path());
        let log = folder.path().join("log");
        let process = command
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut process = Process(process);
        let url = wait_for("nats-server to say its port", 20, || {
            if process.0.try_wait().unwrap().is_some() {
                panic!("nats-server: {}", fs::read_to_string(&log).unwrap());
            }
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
            process,
            folder,
        }
    }

    /// Returns the folder of its streams.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Returns what it has logged, permissions that were missing among it.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

/// A port of this machine that nobody else takes until it is given up.
#[derive(Debug)]
pub struct Port(TcpListener);

impl Port {
    /// Takes a free one.
    pub fn free() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// Returns the address.
    pub fn host(&self) -> String {
        self.0.local_addr().unwrap().to_string()
    }
}

/// A Distribution registry in a folder of its own.
#[derive(Debug)]
pub struct Registry {
    /// Its host and port.
    pub host: String,
    process: Process,
    folder: TempDir,
    /// What its configuration says of access and notifications.
    more: String,
}

impl Registry {
    /// Starts one that anybody may use.
    pub fn start() -> Self {
        Self::serve("127.0.0.1:0", "")
    }

    /// Starts one that trusts the tokens of a gateway and notifies it.
    pub fn guarded(port: Port, gateway: &str, keys: &Keys) -> Self {
        let secret = fs::read_to_string(keys.notifications()).unwrap();
        let more = format!(
            "auth:\n  token:\n    realm: http://{gateway}/token\n    service: sluice-registry\n    issuer: sluice\n    \
             rootcertbundle: {}\n\
             notifications:\n  endpoints:\n    - name: sluice\n      url: http://{gateway}/notifications\n      \
             headers: {{Authorization: ['Bearer {secret}']}}\n      timeout: 5s\n      threshold: 3\n      backoff: 1s\n      \
             ignore: {{mediatypes: [application/octet-stream]}}\n",
            keys.certificate().display()
        );
        let host = port.host();
        drop(port);
        Self::serve(&host, &more)
    }

    fn serve(address: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (process, host) = Self::launch(&folder, address, more);
        Self {
            host,
            process,
            folder,
            more: more.to_owned(),
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
        (self.process, _) = Self::launch(&self.folder, &self.host, &self.more);
    }

    fn launch(folder: &TempDir, address: &str, more: &str) -> (Process, String) {
        let config = folder.path().join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info, formatter: json, accesslog: {{disabled: true}}}}\n\
                 storage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\n\
                 http: {{addr: '{address}', relativeurls: true}}\n{more}",
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
