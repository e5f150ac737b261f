//! Real clients: podman and containerd, each with its storage in a folder of its own, and the trees that they unpack.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::hostile::image::digest;
use crate::servers::Process;
use crate::tree::Tree;
use crate::{tool, wait_for};

/// What a client made of an image: the tree that it unpacked, or what it complained of.
pub type Unpacked = Result<Tree, String>;

/// Podman with the storage driver that copies directories, which any file system allows.
#[derive(Debug)]
pub struct Podman {
    folder: TempDir,
}

impl Podman {
    /// Makes an empty storage.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "policy.json",
            r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
        );
        write("registries.conf", "unqualified-search-registries = []\n");
        let [root, run] = ["root", "run"].map(|name| folder.path().join(name));
        let storage =
            format!("[storage]\ndriver = \"vfs\"\ngraphroot = {root:?}\nrunroot = {run:?}\n");
        write("storage.conf", &storage);
        let conmon = tool("conmon");
        let engine = "cgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n";
        write(
            "containers.conf",
            &format!("[engine]\n{engine}conmon_path = [{conmon:?}]\n"),
        );
        Self { folder }
    }

    /// Returns a command of podman.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let at = |name: &str| self.folder.path().join(name);
        let binary = tool("podman");
        let libraries = binary.parent().unwrap().with_file_name("lib");
        let mut command = Command::new(binary);
        command
            .env("LD_LIBRARY_PATH", libraries)
            .env("CONTAINERS_CONF", at("containers.conf"))
            .env("CONTAINERS_STORAGE_CONF", at("storage.conf"))
            .env("CONTAINERS_REGISTRIES_CONF", at("registries.conf"))
            .env("TMPDIR", self.folder.path())
            .args(arguments);
        command
    }

    /// Runs podman, which must succeed, and returns what it wrote.
    pub fn run(&self, arguments: &[&str]) -> String {
        text_of(self.command(arguments).output().unwrap())
            .unwrap_or_else(|error| panic!("podman {arguments:?}: {error}"))
    }

    /// Pulls an image and returns its tree.
    ///
    /// # Errors
    /// What podman complained of.
    pub fn unpack(&self, reference: &str) -> Unpacked {
        let policy = self.folder.path().join("policy.json");
        let mut pull = self.command(&[
            "pull",
            "--quiet",
            "--tls-verify=false",
            "--signature-policy",
        ]);
        let id = text_of(
            pull.arg(policy)
                .arg(format!("docker://{reference}"))
                .output()
                .unwrap(),
        )?;
        let folder = self.run(&["image", "mount", id.trim()]);
        let tree = Tree::of_folder(Path::new(folder.trim()));
        self.run(&["image", "umount", id.trim()]);
        // Podman trusts what it has of layers and images of the same names.
        self.run(&["rmi", "--all", "--force"]);
        Ok(tree)
    }
}

impl Default for Podman {
    fn default() -> Self {
        Self::new()
    }
}

/// Containerd without a runtime, with the snapshotter that copies directories.
#[derive(Debug)]
pub struct Containerd {
    folder: TempDir,
    _process: Process,
}

impl Containerd {
    /// Starts one with an empty storage.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let disabled = [
            "io.containerd.grpc.v1.cri",
            "io.containerd.snapshotter.v1.aufs",
            "io.containerd.snapshotter.v1.btrfs",
            "io.containerd.snapshotter.v1.devmapper",
            "io.containerd.snapshotter.v1.zfs",
        ];
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = {disabled:?}\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("socket"),
            at("ttrpc"),
        );
        fs::write(at("config.toml"), config).unwrap();
        let log = at("log");
        let process = Command::new(tool("containerd"))
            .arg("--config")
            .arg(at("config.toml"))
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let socket = at("socket");
        let client = Self {
            folder,
            _process: Process(process),
        };
        wait_for(
            &format!("containerd to serve; its log is {}", log.display()),
            30,
            || {
                (socket.exists()
                    && client
                        .ctr("default", &["version"])
                        .output()
                        .unwrap()
                        .status
                        .success())
                .then_some(())
            },
        );
        client
    }

    /// Returns a command in a namespace: what another one has unpacked is not there.
    fn ctr(&self, namespace: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(tool("ctr"));
        command
            .arg("--address")
            .arg(self.folder.path().join("socket"))
            .args(["--namespace", namespace])
            .args(arguments);
        command
    }

    /// Pulls an image and returns its tree, as a client that knows nothing of its layers yet.
    ///
    /// # Errors
    /// What containerd complained of.
    pub fn unpack(&self, reference: &str) -> Unpacked {
        let namespace = &digest(reference.as_bytes())[7..39];
        let images = |arguments: &[&str]| {
            let arguments = [&["images"], arguments].concat();
            text_of(self.ctr(namespace, &arguments).output().unwrap())
        };
        let native = ["--snapshotter", "native"];
        images(&[&["pull", "--plain-http"], &native[..], &[reference]].concat())?;
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().to_str().unwrap();
        images(&[&["mount"], &native[..], &[reference, target]].concat()).unwrap();
        let tree = Tree::of_folder(folder.path());
        images(&[&["unmount", "--rm"], &native[..], &[target]].concat()).unwrap();
        Ok(tree)
    }
}

fn text_of(output: Output) -> Result<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}
