//! nats-server and Distribution as child processes on free ports.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sluice_bus::ServerConfig;
use sluice_gateway::{KeyFolder, NATS_PASSWORDS_FILE};
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
    store: PathBuf,
    arguments: Vec<OsString>,
}

impl Nats {
    /// Starts one that anybody may do everything at.
    pub fn start() -> Self {
        Self::open_to_anybody("")
    }

    /// Starts three that are a cluster, at which anybody may do everything.
    pub fn cluster() -> [Self; 3] {
        // Taken together, so that they differ.
        let ports = [(); 3].map(|()| Port::free());
        let routes = ports.each_ref().map(Port::host);
        drop(ports);
        let all = routes.each_ref().map(|route| format!("nats://{route}"));
        let all = all.join(", ");
        let node = |index: usize| {
            let listen = &routes[index];
            Self::open_to_anybody(&format!(
                "server_name: node-{index}\ncluster {{ name: test, listen: \"{listen}\", routes: [ {all} ] }}\n"
            ))
        };
        [0, 1, 2].map(node)
    }

    fn open_to_anybody(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("data");
        let file = folder.path().join("nats.conf");
        let place = store.display();
        // The limits of all streams together may be more than the disk of the machine has.
        let config =
            format!("jetstream {{ store_dir: \"{place}\", max_file_store: 1TB }}\n{settings}");
        fs::write(&file, config).unwrap();
        Self::begin(folder, store, vec!["-c".into(), file.into()])
    }

    /// Starts one with the users and permissions of an installation, which keeps its data in this folder if one is given.
    ///
    /// Whoever gives no name is the test itself, which may do everything.
    pub fn guarded(keys: &KeyFolder, store: Option<&Path>) -> Self {
        Self::configured(keys, store, |config| {
            let of_the_test =
                "jetstream: enabled\n    users: [\n      { user: test, password: test }";
            config.replacen("jetstream: enabled\n    users: [", of_the_test, 1)
                + "no_auth_user: test\n"
        })
    }

    /// Starts one with the configuration of an installation, changed by the test.
    pub fn configured(
        keys: &KeyFolder,
        store: Option<&Path>,
        change: impl FnOnce(&str) -> String,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = store.map_or_else(|| folder.path().join("data"), Path::to_path_buf);
        let config = ServerConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            store: &store,
            ports: None,
            tls: None,
        };
        let [(passwords_file, passwords), (_, accounts)] = keys.nats_files().unwrap();
        // Tests kill processes, not machines, and the disk is what they would wait for most.
        let config = config.render(&accounts);
        let config = change(&config.replace(", sync_interval: always", ""));
        let file = folder.path().join("nats.conf");
        fs::write(&file, config).unwrap();
        fs::write(folder.path().join(passwords_file), passwords).unwrap();
        Self::begin(folder, store, vec!["-c".into(), file.into()])
    }

    fn begin(folder: TempDir, store: PathBuf, arguments: Vec<OsString>) -> Self {
        let (process, url) = launch(folder.path(), &arguments, "-1");
        Self {
            url,
            process,
            folder,
            store,
            arguments,
        }
    }

    /// Kills it at once.
    pub fn kill(&mut self) {
        self.process.0.kill().unwrap();
        self.process.0.wait().unwrap();
    }

    /// Stops it in its tracks, so that it answers nobody, or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        freeze(&self.process, frozen);
    }

    /// Starts it again at the same address with what it held, after it was killed.
    pub fn restart(&mut self) {
        let (_, port) = self.url.rsplit_once(':').unwrap();
        (self.process, _) = launch(self.folder.path(), &self.arguments, port);
    }

    /// Kills it, throws away all that it held, and starts it at the same address.
    pub fn start_empty(&mut self) {
        self.process.0.kill().ok();
        self.process.0.wait().ok();
        fs::remove_dir_all(&self.store).unwrap();
        self.restart();
    }

    /// Returns the folder of its streams.
    pub fn data(&self) -> &Path {
        &self.store
    }

    /// Returns the file of its configuration.
    pub fn configuration(&self) -> PathBuf {
        self.folder.path().join("nats.conf")
    }

    /// Returns the file of its users' passwords, which it reads again when it is told to.
    pub fn passwords(&self) -> PathBuf {
        self.folder.path().join(NATS_PASSWORDS_FILE)
    }

    /// Returns the id of its process.
    pub fn process_id(&self) -> u32 {
        self.process.0.id()
    }

    /// Returns what it has logged, permissions that were missing among it.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

/// Starts nats-server and waits until it says its address.
fn launch(folder: &Path, arguments: &[OsString], port: &str) -> (Process, String) {
    let (ports, log) = (folder.join("ports"), folder.join("log"));
    // A killed one leaves its file behind.
    fs::remove_dir_all(&ports).ok();
    fs::create_dir(&ports).unwrap();
    let log_file = File::options().create(true).append(true).open(&log);
    let process = Command::new(tool("nats-server"))
        .args(arguments)
        .args(["-a", "127.0.0.1", "-p", port, "--ports_file_dir"])
        .arg(&ports)
        .stdout(Stdio::null())
        .stderr(log_file.unwrap())
        .spawn()
        .unwrap();
    let mut process = Process(process);
    let url = wait_for("nats-server to say its port", 20, || {
        if process.0.try_wait().unwrap().is_some() {
            panic!("nats-server: {}", fs::read_to_string(&log).unwrap());
        }
        let files = fs::read_dir(&ports).unwrap().flatten();
        let mut files = files.map(|entry| entry.path());
        let file = files.find(|path| path.extension().is_some_and(|end| end == "ports"))?;
        let told: serde_json::Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
        Some(told["nats"][0].as_str()?.to_owned())
    });
    (process, url)
}

/// Stops a process in its tracks, so that it answers nobody, or lets it go on.
fn freeze(process: &Process, frozen: bool) {
    let signal = if frozen { "-STOP" } else { "-CONT" };
    let process = process.0.id().to_string();
    let sent = Command::new("kill").args([signal, &process]).status();
    assert!(sent.unwrap().success());
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

/// The account at a registry of somebody else, with its password.
pub const PARTNER: (&str, &str) = ("partner", "other-secret");
/// The same as `htpasswd` writes it.
const PARTNER_ENTRY: &str =
    "partner:$2y$05$abcdefghijklmnopqrstuuaObGR9Z5Gfnkc1CTHEphxcX9pw6kxUi\n";

/// A Distribution registry in a folder of its own.
#[derive(Debug)]
pub struct Registry {
    /// Its host and port.
    pub host: String,
    process: Process,
    folder: TempDir,
    storage: PathBuf,
    /// What its configuration says of access and notifications.
    more: String,
    /// Whether it lets anybody delete.
    deletes: bool,
}

impl Registry {
    /// Starts one that anybody may use.
    pub fn start() -> Self {
        Self::serve("127.0.0.1:0", "", None, true)
    }

    /// Starts one of somebody else, which wants an account ([`PARTNER`]) and may not let anybody delete.
    pub fn private(deletes: bool) -> Self {
        let more = "auth:\n  htpasswd:\n    realm: partner\n    path: FOLDER/htpasswd\n";
        Self::serve("127.0.0.1:0", more, None, deletes)
    }

    /// Starts one that trusts the tokens of a gateway and notifies it.
    pub fn guarded(port: Port, gateway: &str, keys: &KeyFolder, storage: Option<&Path>) -> Self {
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
        Self::serve(&host, &more, storage, true)
    }

    fn serve(address: &str, more: &str, storage: Option<&Path>, deletes: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage = storage.map_or_else(|| folder.path().join("data"), Path::to_path_buf);
        fs::write(folder.path().join("htpasswd"), PARTNER_ENTRY).unwrap();
        let (process, host) = Self::launch(&folder, &storage, address, more, deletes);
        Self {
            host,
            process,
            folder,
            storage,
            more: more.to_owned(),
            deletes,
        }
    }

    /// Ends it at once.
    pub fn stop(&mut self) {
        self.process.0.kill().unwrap();
        self.process.0.wait().unwrap();
    }

    /// Returns the folder in which it keeps what it holds.
    pub fn storage(&self) -> &Path {
        &self.storage
    }

    /// Stops it in its tracks, so that it answers nobody, or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        freeze(&self.process, frozen);
    }

    /// Returns what it was asked, as in `HEAD /v2/app/manifests/1.0`, in its order.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
        let told = log.lines().filter_map(|line| {
            let told: serde_json::Value = serde_json::from_str(line).ok()?;
            let ended = told["msg"].as_str()?.starts_with("response completed");
            let method = told["http.request.method"].as_str()?;
            let path = told["http.request.uri"].as_str()?;
            ended.then(|| format!("{method} {path}"))
        });
        told.collect()
    }

    /// Returns how many bytes of answers it has sent.
    pub fn sent_bytes(&self) -> u64 {
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap();
        let sent = log.lines().filter_map(|line| {
            let told: serde_json::Value = serde_json::from_str(line).ok()?;
            let ended = told["msg"].as_str()?.starts_with("response completed");
            ended.then(|| told["http.response.written"].as_u64())?
        });
        sent.sum()
    }

    /// Lets it serve other bytes for a blob, as many as before; returns what puts the true ones back.
    pub fn forge(&self, digest: &str) -> Genuine {
        self.forge_as(digest, |genuine| vec![b'x'; genuine.len()])
    }

    /// As [`Registry::forge`], with bytes that are made of the true ones.
    pub fn forge_as(&self, digest: &str, other: impl FnOnce(&[u8]) -> Vec<u8>) -> Genuine {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blobs = self.storage.join("docker/registry/v2/blobs/sha256");
        let path = blobs.join(&hex[..2]).join(hex).join("data");
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, other(&bytes)).unwrap();
        Genuine { path, bytes }
    }

    /// Starts it again with what it held, at the same address.
    pub fn restart(&mut self) {
        self.stop();
        let Self {
            folder,
            storage,
            host,
            more,
            deletes,
            ..
        } = self;
        (self.process, _) = Self::launch(folder, storage, host, more, *deletes);
    }

    fn launch(
        folder: &TempDir,
        storage: &Path,
        address: &str,
        more: &str,
        deletes: bool,
    ) -> (Process, String) {
        let more = more.replace("FOLDER", folder.path().to_str().unwrap());
        let config = folder.path().join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: info, formatter: json, accesslog: {{disabled: true}}}}\n\
                 storage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: {deletes}}}\n\
                 http: {{addr: '{address}', relativeurls: true}}\n{more}",
                storage.display()
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

/// What a blob was before it was forged.
#[derive(Debug)]
pub struct Genuine {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Genuine {
    /// Puts it back.
    pub fn restore(self) {
        fs::write(self.path, self.bytes).unwrap();
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
