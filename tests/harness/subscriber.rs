//! The example subscriber in Python, as a process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::servers::Process;
use crate::{Stack, python, root};

/// A subscriber that writes what it sees to a file.
#[derive(Debug)]
pub struct Subscriber {
    out: PathBuf,
    _process: Process,
}

impl Subscriber {
    /// Generates the classes of the protocol and starts it, with arguments before the address.
    pub fn start(stack: &Stack, name: &str, arguments: &[&str]) -> Self {
        Self::follow(stack.folder(), &stack.nats.url, name, arguments)
    }

    /// As [`Subscriber::start`], of any server; its files lie in a folder.
    pub fn follow(folder: &Path, url: &str, name: &str, arguments: &[&str]) -> Self {
        let generated = folder.join(format!("{name}-generated"));
        fs::create_dir(&generated).unwrap();
        let proto = root().join("proto");
        let mut protoc = Command::new(python());
        protoc
            .args(["-m", "grpc_tools.protoc", "-I"])
            .arg(&proto)
            .arg(format!("--python_out={}", generated.display()));
        for entry in fs::read_dir(proto.join("sluice/events/v1")).unwrap() {
            protoc.arg(entry.unwrap().path());
        }
        assert!(protoc.status().unwrap().success());
        let out = folder.join(name);
        let child = Command::new(python())
            .arg(root().join("deploy/examples/subscriber-python/subscriber.py"))
            .args(arguments)
            .arg(url)
            .env("PYTHONPATH", &generated)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdout(File::create(&out).unwrap())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self {
            out,
            _process: Process(child),
        }
    }

    /// Returns the whole lines that it has written.
    pub fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.out).unwrap();
        let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
        whole.lines().map(ToOwned::to_owned).collect()
    }
}
