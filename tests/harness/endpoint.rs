//! Receivers of webhooks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::servers::Process;
use crate::{put_secret, python, root, wait_for};

/// A receiver in a process of its own.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub url: String,
    out: PathBuf,
    _process: Process,
}

impl Endpoint {
    /// Starts the receiver of the demo, which has its own reading of the specification.
    pub fn own(folder: &Path, name: &str, secret: &str, more: &[&str]) -> Self {
        let program = root().join("deploy/webhook-receiver");
        Self::start(Path::new("python3"), &program, folder, name, secret, more)
    }

    /// Starts a receiver that verifies with the library of Standard Webhooks.
    pub fn library(folder: &Path, name: &str, secret: &str, more: &[&str]) -> Self {
        let program = root().join("tests/fixtures/webhook_endpoint.py");
        Self::start(&python(), &program, folder, name, secret, more)
    }

    fn start(
        interpreter: &Path,
        program: &Path,
        folder: &Path,
        name: &str,
        secret: &str,
        more: &[&str],
    ) -> Self {
        let file = |end: &str| folder.join(format!("{name}.{end}"));
        fs::write(file("receiver-secret"), secret).unwrap();
        let child = Command::new(interpreter)
            .arg(program)
            .arg("--secret-file")
            .arg(file("receiver-secret"))
            .arg("--out")
            .arg(file("jsonl"))
            .arg("--port-file")
            .arg(file("port"))
            .args(more)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let process = Process(child);
        let scheme = if more.contains(&"--certificate") {
            "https"
        } else {
            "http"
        };
        let port = wait_for("the endpoint to say its port", 20, || {
            fs::read_to_string(file("port")).ok()
        });
        Self {
            url: format!("{scheme}://127.0.0.1:{}/hook", port.trim()),
            out: file("jsonl"),
            _process: process,
        }
    }

    /// Returns every request so far.
    pub fn requests(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.out).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Returns how often each event was taken.
    pub fn taken(&self) -> BTreeMap<String, usize> {
        let mut taken = BTreeMap::new();
        for request in self.requests() {
            if request["status"] == 204 {
                assert_eq!(request["verified"], true, "{request}");
                *taken
                    .entry(request["id"].as_str().unwrap().to_owned())
                    .or_default() += 1;
            }
        }
        taken
    }
}

/// Returns a webhook that signs with a secret of its own, which is bound to its address.
pub fn webhook(folder: &Path, name: &str, url: &str, secrets: &str, more: &str) -> String {
    let origin: Vec<&str> = url.splitn(4, '/').take(3).collect();
    put_secret(folder, name, secrets, Some(&origin.join("/")));
    format!(
        "---\nkind: Webhook\nname: {name}\nurl: {url}\nsigning_key: {{ secret: {name} }}\nallow_private_addresses: true\n{more}"
    )
}
