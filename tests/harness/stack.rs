//! A provisioned stack: NATS, an upstream, the internal registry, and the services as processes of their own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use sluice_gateway::KeyFolder;
use tempfile::TempDir;

use crate::bus::BusClient;
use crate::image::Upstream;
use crate::logs::Logs;
use crate::proxy::Proxy;
use crate::secrets::secrets_folder;
use crate::servers::{Nats, Port, Process, Registry};
use crate::{binary, wait_for};

/// The services that do not speak to the internal registry.
const WITHOUT_REGISTRY: [&str; 2] = ["poller", "webhook-dispatcher"];

/// The services that use no secret that a resource names.
const WITHOUT_SECRETS: [&str; 2] = ["pruner", "scanner-adapter"];

/// Where the servers of a stack keep their data, if not in folders of their own.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disks<'a> {
    /// The store of nats-server.
    pub nats: Option<&'a Path>,
    /// The storage of the internal registry.
    pub registry: Option<&'a Path>,
}

/// Everything that a pipeline test needs.
#[derive(Debug)]
pub struct Stack {
    /// The bus.
    pub nats: Nats,
    /// The registry that images come from.
    pub upstream: Registry,
    /// The internal registry, which asks for tokens of the gateway and notifies it.
    pub internal: Registry,
    /// The host and port of the gateway's token endpoint and intake.
    pub tokens: String,
    /// The host and port of the gateway's REST API.
    pub api: String,
    /// The keys and passwords.
    pub keys: KeyFolder,
    /// What stands between the registry and the gateway's token endpoint and intake.
    pub before_gateway: Proxy,
    services: Vec<Process>,
    stages: BTreeSet<String>,
    folder: TempDir,
    expect_quiet: bool,
    expect_no_denial: bool,
}

impl Stack {
    /// Starts the servers and the gateway, and provisions the bus with a duplicate window of this many seconds.
    pub fn start(duplicate_window_seconds: u64) -> Self {
        Self::on(Disks::default(), duplicate_window_seconds)
    }

    /// As [`Stack::start`], with the servers' data on these disks.
    pub fn on(disks: Disks<'_>, duplicate_window_seconds: u64) -> Self {
        Self::provisioned(disks, duplicate_window_seconds, &[])
    }

    /// As [`Stack::start`], but the work of a process that died is given to another after 1 s instead of 30.
    pub fn quick(duplicate_window_seconds: u64) -> Self {
        let more = ["--ack-wait-seconds", "1"];
        Self::provisioned(Disks::default(), duplicate_window_seconds, &more)
    }

    fn provisioned(disks: Disks<'_>, duplicate_window_seconds: u64, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The scanner runs as another user, who has to reach its own folders in here.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let keys = KeyFolder::at(folder.path().join("keys"));
        keys.create().unwrap();
        let nats = Nats::guarded(&keys, disks.nats);
        let window = duplicate_window_seconds.to_string();
        let provision = [&["provision", "--duplicate-window-seconds", &window], more].concat();
        succeeded(&provision, run(&nats, &keys, &provision));
        // The gateway names the registry in its facts, and the registry names the gateway in its challenges.
        let port = Port::free();
        let registry = format!("http://{}", port.host());
        // The proxy is there before the gateway, which has to know by which address the registry names it.
        let before_gateway = Proxy::between(&port.host());
        let tokens = before_gateway.host.clone();
        let place = folder.path().join("gateway-0");
        let settings = gateway_settings(&nats, &keys, (&registry, &tokens), &place);
        let mut gateway = spawn(folder.path(), ("gateway", 0), &settings);
        until_ready(folder.path(), ("gateway", 0), &mut gateway);
        let (gateway_address, api) = gateway_addresses(&place);
        before_gateway.retarget(&gateway_address);
        Self {
            upstream: Registry::start(),
            internal: Registry::guarded(port, &tokens, &keys, disks.registry),
            tokens,
            api,
            keys,
            before_gateway,
            nats,
            services: vec![gateway],
            stages: BTreeSet::new(),
            folder,
            expect_quiet: true,
            expect_no_denial: true,
        }
    }

    /// Says that messages may be left over when the test ends.
    pub fn may_leave_messages(&mut self) {
        self.expect_quiet = false;
    }

    /// Says that NATS refuses something in this test.
    pub fn may_be_denied(&mut self) {
        self.expect_no_denial = false;
    }

    /// Returns a folder of this stack.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a service and waits until it is ready; returns its place for [`Stack::kill`].
    pub fn service(&mut self, name: &str, environment: &[(&str, &str)]) -> usize {
        let number = self.begin(name, environment);
        until_ready(
            self.folder.path(),
            (name, number),
            &mut self.services[number],
        );
        number
    }

    /// Starts a service without waiting for it; returns its place.
    pub fn begin(&mut self, name: &str, environment: &[(&str, &str)]) -> usize {
        let number = self.services.len();
        let mut settings = bus_settings(&self.nats, &self.keys, name);
        if !WITHOUT_REGISTRY.contains(&name) {
            let password = self.keys.password(name).to_str().unwrap().to_owned();
            settings.extend([
                (
                    "SLUICE__REGISTRY__URL",
                    format!("http://{}", self.internal.host),
                ),
                ("SLUICE__REGISTRY__PASSWORD_FILE", password),
                ("SLUICE__REGISTRY__TOKEN_HOST", self.tokens.clone()),
            ]);
        }
        if !WITHOUT_SECRETS.contains(&name) {
            settings.push(("SLUICE__SECRETS__DIR", secrets_of(self.folder())));
        }
        settings.extend(owned(environment));
        let process = spawn(self.folder.path(), (name, number), &settings);
        self.services.push(process);
        self.stages.insert(name.to_owned());
        number
    }

    /// Returns what a service says of its readiness, once it answers; `ready` where it is.
    pub fn readiness(&self, name: &str, number: usize) -> Option<String> {
        readiness(self.folder.path(), (name, number))
    }

    /// Returns what a service tells of itself in numbers.
    pub fn metrics(&self, name: &str, number: usize) -> String {
        let address = place(self.folder.path(), (name, number), "address");
        let address = fs::read_to_string(address).unwrap();
        let answer = reqwest::blocking::get(format!("http://{address}/metrics"));
        answer.unwrap().text().unwrap()
    }

    /// Starts another gateway and returns the host and port of its token endpoint and of its REST API.
    pub fn gateway(&mut self, environment: &[(&str, &str)]) -> (String, String) {
        let number = self.services.len();
        let place = self.folder.path().join(format!("gateway-{number}"));
        let registry = format!("http://{}", self.internal.host);
        let hosts = (registry.as_str(), self.tokens.as_str());
        let mut settings = gateway_settings(&self.nats, &self.keys, hosts, &place);
        settings.extend(owned(environment));
        let mut process = spawn(self.folder.path(), ("gateway", number), &settings);
        until_ready(self.folder.path(), ("gateway", number), &mut process);
        self.services.push(process);
        gateway_addresses(&place)
    }

    /// Kills every service, the gateway too.
    pub fn kill_all(&mut self) {
        for process in &mut self.services {
            process.0.kill().ok();
            process.0.wait().ok();
        }
    }

    /// Starts the gateway again at the address that the registry knows.
    pub fn restart_gateway(&mut self) {
        let (tokens, api) = self.gateway(&[]);
        self.before_gateway.retarget(&tokens);
        self.api = api;
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

    /// Says whether a service has ended.
    pub fn is_dead(&mut self, number: usize) -> bool {
        self.services[number].0.try_wait().unwrap().is_some()
    }

    /// Waits until a service has died by itself.
    pub fn wait_until_dead(&mut self, number: usize) {
        wait_for("the service to die", 60, || {
            self.services[number].0.try_wait().unwrap()
        });
    }

    /// Returns the process id of a service.
    pub fn process_id(&self, number: usize) -> u32 {
        self.services[number].0.id()
    }

    /// Runs the command and returns what it did.
    pub fn try_sluice(&self, arguments: &[&str]) -> Output {
        run(&self.nats, &self.keys, arguments)
    }

    /// Runs the command, which must succeed, and returns what it wrote.
    pub fn sluice(&self, arguments: &[&str]) -> String {
        succeeded(arguments, self.try_sluice(arguments))
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

    /// Speaks to the internal registry as the gateway, which may read everything and whose pulls are not told.
    pub fn reader(&self) -> Upstream {
        self.as_service("gateway")
    }

    /// Speaks to the internal registry as one of the services.
    pub fn as_service(&self, name: &str) -> Upstream {
        let password = fs::read_to_string(self.keys.password(name)).unwrap();
        Upstream::with_account(&self.internal.host, name, &password)
    }

    /// Speaks to the internal registry without an account.
    pub fn anonymous(&self) -> Upstream {
        Upstream::new(&self.internal.host)
    }

    /// Returns the facts of the log whose name is this, oldest first.
    pub fn events(&self, name: &str) -> Vec<Value> {
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

    /// Waits for a second in which nobody publishes a fact or a command. Work that leads to itself never has one, although
    /// nothing may be left whenever somebody looks.
    fn until_nothing_is_published(&self) {
        let stored = || ["EVENTS", "WORK"].map(|stream| self.nats.stored(stream));
        let mut before = stored();
        let is_quiet = (0..30).any(|_| {
            std::thread::sleep(Duration::from_secs(1));
            let now = stored();
            std::mem::replace(&mut before, now) == now
        });
        assert!(is_quiet, "the stages do not come to rest: {before:?}");
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

/// Returns the settings of a gateway that writes its addresses beside this place.
fn gateway_settings(
    nats: &Nats,
    keys: &KeyFolder,
    (registry, tokens): (&str, &str),
    place: &Path,
) -> Vec<(&'static str, String)> {
    let path = |path: PathBuf| path.to_str().unwrap().to_owned();
    let free = || "127.0.0.1:0".to_owned();
    let mut settings = bus_settings(nats, keys, "gateway");
    settings.extend([
        ("SLUICE__REGISTRY__URL", registry.to_owned()),
        ("SLUICE__REGISTRY__TOKEN_HOST", tokens.to_owned()),
        (
            "SLUICE__REGISTRY__PASSWORD_FILE",
            path(keys.password("gateway")),
        ),
        ("SLUICE__TOKENS__LISTEN", free()),
        (
            "SLUICE__TOKENS__ADDRESS_FILE",
            path(place.with_extension("tokens")),
        ),
        ("SLUICE__TOKENS__KEY_FILE", path(keys.signing_key())),
        ("SLUICE__TOKENS__CERTIFICATE_FILE", path(keys.certificate())),
        ("SLUICE__TOKENS__ACCOUNTS_DIR", path(keys.accounts())),
        (
            "SLUICE__NOTIFICATIONS__SECRET_FILE",
            path(keys.notifications()),
        ),
        ("SLUICE__API__LISTEN", free()),
        ("SLUICE__API__TOKEN_FILE", path(keys.api_token())),
        ("SLUICE__SECRETS__DIR", secrets_of(place.parent().unwrap())),
        (
            "SLUICE__API__ADDRESS_FILE",
            path(place.with_extension("api")),
        ),
    ]);
    settings
}

/// Returns how a service reaches the bus, as the user that has its permissions and no others.
fn bus_settings(nats: &Nats, keys: &KeyFolder, name: &str) -> Vec<(&'static str, String)> {
    let password = keys.nats_password(name).to_str().unwrap().to_owned();
    vec![
        ("SLUICE__BUS__URL", nats.url.clone()),
        ("SLUICE__BUS__USER", name.to_owned()),
        ("SLUICE__BUS__PASSWORD_FILE", password),
    ]
}

fn secrets_of(folder: &Path) -> String {
    secrets_folder(folder).display().to_string()
}

/// Returns the addresses that a gateway wrote: of its token endpoint and of its REST API.
fn gateway_addresses(place: &Path) -> (String, String) {
    let read = |what: &str| fs::read_to_string(place.with_extension(what)).unwrap();
    (read("tokens"), read("api"))
}

fn owned<'a>(environment: &[(&'a str, &str)]) -> Vec<(&'a str, String)> {
    let pairs = environment.iter();
    pairs
        .map(|(key, value)| (*key, (*value).to_owned()))
        .collect()
}

fn place(folder: &Path, (name, number): (&str, usize), what: &str) -> PathBuf {
    folder.join(format!("{name}-{number}.{what}"))
}

/// Starts a service.
fn spawn(folder: &Path, service: (&str, usize), settings: &[(&str, String)]) -> Process {
    let child = Command::new(binary(&format!("sluice-{}", service.0)))
        .env("SLUICE__HTTP__LISTEN", "127.0.0.1:0")
        .env(
            "SLUICE__HTTP__ADDRESS_FILE",
            place(folder, service, "address"),
        )
        .envs(settings.iter().map(|(key, value)| (*key, value)))
        .stdout(Stdio::null())
        .stderr(File::create(place(folder, service, "log")).unwrap())
        .spawn()
        .unwrap();
    Process(child)
}

fn readiness(folder: &Path, service: (&str, usize)) -> Option<String> {
    let at = fs::read_to_string(place(folder, service, "address")).ok()?;
    let answer = reqwest::blocking::get(format!("http://{at}/readyz")).ok()?;
    Some(answer.text().ok()?.trim().to_owned())
}

fn until_ready(folder: &Path, service: (&str, usize), process: &mut Process) {
    let (name, log) = (service.0, place(folder, service, "log"));
    wait_for(
        &format!("{name} to be ready; its log is {}", log.display()),
        20,
        || {
            if let Some(status) = process.0.try_wait().unwrap() {
                let told = fs::read_to_string(&log).unwrap();
                panic!("{name} ended with {status}:\n{told}");
            }
            (readiness(folder, service)? == "ready").then_some(())
        },
    );
}

/// Runs the command and returns what it did.
fn run(nats: &Nats, keys: &KeyFolder, arguments: &[&str]) -> Output {
    command(nats, keys, arguments).output().unwrap()
}

/// Returns the command, ready to be run.
pub(crate) fn command(nats: &Nats, keys: &KeyFolder, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("sluice"));
    command
        .args(["--nats", &nats.url, "--nats-user", "admin"])
        .arg("--nats-password-file")
        .arg(keys.nats_password("admin"))
        .args(arguments);
    command
}

/// Returns what a command wrote that must have succeeded.
fn succeeded(arguments: &[&str], output: Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "sluice {arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

impl Drop for Stack {
    /// Every test also proves that nothing is left over, unless it said otherwise.
    fn drop(&mut self) {
        let _logs = Logs(self.folder.path());
        if std::thread::panicking() {
            return;
        }
        // A service that lacks a right may get on without what it wanted, and nobody would know.
        let log = self.nats.log();
        let denied: Vec<_> = log
            .lines()
            .filter(|line| line.contains("Violation"))
            .collect();
        let is_expected = denied.is_empty() || !self.expect_no_denial;
        assert!(is_expected, "NATS denied: {denied:#?}");
        if self.expect_quiet {
            wait_for(
                "every stage to be done and no dead letter to be there",
                90,
                || self.is_quiet().then_some(()),
            );
            self.until_nothing_is_published();
        }
    }
}
