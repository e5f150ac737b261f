//! A provisioned stack: NATS, an upstream, the internal registry, and the services as processes of their own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::bus::BusClient;
use crate::image::Upstream;
use crate::servers::{Nats, Process, Registry};
use crate::{binary, wait_for};

/// The services that do not speak to the internal registry.
const WITHOUT_REGISTRY: [&str; 2] = ["poller", "webhook-dispatcher"];

/// Everything that a pipeline test needs.
#[derive(Debug)]
pub struct Stack {
    /// The bus.
    pub nats: Nats,
    /// The registry that images come from.
    pub upstream: Registry,
    /// The internal registry.
    pub internal: Registry,
    services: Vec<Process>,
    stages: BTreeSet<String>,
    folder: TempDir,
    expect_quiet: bool,
}

impl Stack {
    /// Starts the servers and provisions the bus with a duplicate window of this many seconds.
    pub fn start(duplicate_window_seconds: u64) -> Self {
        let stack = Self {
            nats: Nats::start(),
            upstream: Registry::start(),
            internal: Registry::start(),
            services: Vec::new(),
            stages: BTreeSet::new(),
            folder: tempfile::tempdir().unwrap(),
            expect_quiet: true,
        };
        let window = duplicate_window_seconds.to_string();
        stack.sluice(&["provision", "--duplicate-window-seconds", &window]);
        stack
    }

    /// Says that messages may be left over when the test ends.
    pub fn may_leave_messages(&mut self) {
        self.expect_quiet = false;
    }

    /// Returns a folder of this stack.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a service and waits until it is ready; returns its place for [`Stack::kill`].
    pub fn service(&mut self, name: &str, environment: &[(&str, &str)]) -> usize {
        let number = self.services.len();
        let address = self.folder.path().join(format!("{name}-{number}.address"));
        let log = self.log(name, number);
        let child = Command::new(binary(&format!("sluice-{name}")))
            .env("SLUICE__BUS__URL", &self.nats.url)
            .env("SLUICE__HTTP__ADDRESS_FILE", &address)
            .envs((!WITHOUT_REGISTRY.contains(&name)).then(|| {
                (
                    "SLUICE__REGISTRY__URL",
                    format!("http://{}", self.internal.host),
                )
            }))
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        self.services.push(Process(child));
        self.stages.insert(name.to_owned());
        wait_for(
            &format!("{name} to be ready; its log is {}", log.display()),
            20,
            || {
                let at = fs::read_to_string(&address).ok()?;
                reqwest::blocking::get(format!("http://{at}/readyz"))
                    .ok()?
                    .status()
                    .is_success()
                    .then_some(())
            },
        );
        number
    }

    fn log(&self, name: &str, number: usize) -> PathBuf {
        self.folder.path().join(format!("{name}-{number}.log"))
    }

    /// Returns what a service has logged.
    pub fn log_of(&self, number: usize) -> String {
        let ending = format!("-{number}.log");
        let entries = fs::read_dir(self.folder.path()).unwrap().flatten();
        let log = entries
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().ends_with(&ending));
        fs::read_to_string(log.unwrap()).unwrap()
    }

    /// Kills a service at once.
    pub fn kill(&mut self, number: usize) {
        self.services[number].0.kill().unwrap();
        self.services[number].0.wait().unwrap();
    }

    /// Asks a service to stop and returns its exit code.
    pub fn stop(&mut self, number: usize) -> Option<i32> {
        let id = self.services[number].0.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-TERM", &id])
                .status()
                .unwrap()
                .success()
        );
        wait_for("the service to stop", 60, || {
            self.services[number].0.try_wait().unwrap()
        })
        .code()
    }

    /// Returns the process id of a service.
    pub fn process_id(&self, number: usize) -> u32 {
        self.services[number].0.id()
    }

    /// Runs the command and returns what it did.
    pub fn try_sluice(&self, arguments: &[&str]) -> Output {
        Command::new(binary("sluice"))
            .arg("--nats")
            .arg(&self.nats.url)
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Runs the command, which must succeed, and returns what it wrote.
    pub fn sluice(&self, arguments: &[&str]) -> String {
        let output = self.try_sluice(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "sluice {arguments:?}: {complaint}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Applies resources.
    pub fn apply(&self, yaml: &str) {
        let file = self.folder.path().join("resources.yaml");
        fs::write(&file, yaml).unwrap();
        self.sluice(&["apply", "-f", file.to_str().unwrap()]);
    }

    /// Connects to the bus.
    pub fn bus(&self) -> BusClient {
        BusClient::connect(&self.nats.url)
    }

    /// Returns the resource that lets the upstream be spoken to without TLS.
    pub fn upstream_resource(&self) -> String {
        format!(
            "kind: Registry\nname: upstream\nhost: {}\nplain_http: true\n",
            self.upstream.host
        )
    }

    /// Returns a mirror of a repository of the upstream.
    pub fn mirror(&self, name: &str, from: &str, to: &str, more: &str) -> String {
        format!(
            "---\nkind: Mirror\nname: {name}\nfrom: {}/{from}\nto: {to}\n{more}",
            self.upstream.host
        )
    }

    /// Speaks to the upstream as its publisher.
    pub fn publisher(&self) -> Upstream {
        Upstream::new(&self.upstream.host)
    }

    /// Speaks to the internal registry.
    pub fn reader(&self) -> Upstream {
        Upstream::new(&self.internal.host)
    }

    /// Returns the facts of the log whose name is this, oldest first.
    pub fn facts(&self, name: &str) -> Vec<Value> {
        let lines = self.sluice(&["events"]);
        lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .filter(|fact: &Value| fact["event"] == name)
            .collect()
    }

    /// Returns the status.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.sluice(&["status", "-o", "json"])).unwrap()
    }

    /// Says whether the stages that run have nothing left to do.
    pub fn is_quiet(&self) -> bool {
        let status = self.status();
        let stages = status["stages"].as_array().unwrap();
        let running = stages
            .iter()
            .filter(|s| self.stages.contains(s["stage"].as_str().unwrap()));
        running.into_iter().all(|s| {
            ["waiting", "inFlight", "later"]
                .iter()
                .all(|what| s[what] == 0)
        }) && status["deadLetters"] == 0
    }
}

impl Drop for Stack {
    /// Every test also proves that nothing is left over, unless it said otherwise.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in fs::read_dir(self.folder.path())
                .into_iter()
                .flatten()
                .flatten()
            {
                if entry.path().extension().is_some_and(|end| end == "log") {
                    let text = fs::read_to_string(entry.path()).unwrap_or_default();
                    let lines: Vec<_> = text.lines().rev().take(25).collect();
                    eprintln!("--- {}", entry.path().display());
                    lines.iter().rev().for_each(|line| eprintln!("{line}"));
                }
            }
            return;
        }
        if self.expect_quiet {
            wait_for(
                "every stage to be done and no dead letter to be there",
                30,
                || self.is_quiet().then_some(()),
            );
        }
    }
}
