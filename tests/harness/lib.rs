//! Starts real servers and real binaries for the black-box tests; everything ends with the test.
#![allow(
    clippy::disallowed_methods,
    reason = "a test waits in real time for processes of its own"
)]

pub mod bus;
pub mod clients;
pub mod content;
pub mod crash;
pub mod dishonest_registry;
pub mod disk;
pub mod endpoint;
pub mod hostile;
pub mod image;
mod logs;
pub mod manual;
pub mod proxy;
pub mod rate_limited_registry;
pub mod registry_storage;
pub mod scanner;
mod secrets;
pub mod seeded_random;
mod server_api;
pub mod servers;
pub mod slow_upstream;
pub mod stack;
pub mod subscriber;
pub mod traces;
pub mod tree;
pub mod up;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

pub use bus::BusClient;
pub use disk::Disk;
pub use image::{Image, Upstream};
pub use proxy::{Faults, Proxy};
pub use rate_limited_registry::Limited;
pub use scanner::Database;
pub use secrets::put_secret;
pub use servers::{Nats, PARTNER, Registry};
pub use stack::{Disks, Stack};
pub use up::Up;

/// Returns the root of the project.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// Returns the folder into which `deploy/tools` installs.
pub fn tools_folder() -> PathBuf {
    std::env::var_os("SLUICE_TOOLS").map_or_else(|| root().join(".tools"), PathBuf::from)
}

/// Finds a server's binary, or says how it is installed.
pub fn tool(name: &str) -> PathBuf {
    let own = tools_folder().join("bin").join(name);
    // Debian's nats-server is too old to be of use.
    let places = [
        Some(own),
        (name != "nats-server").then(|| PathBuf::from("/usr/bin").join(name)),
    ];
    places
        .into_iter()
        .flatten()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("`{name}` is not installed; run `deploy/tools --for tests`"))
}

/// Returns a binary of the project, which `tests/run` has built.
pub fn binary(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join(name);
    assert!(
        path.exists(),
        "`{name}` is not built; run `cargo build --workspace --bins` first"
    );
    path
}

/// Runs skopeo, which speaks plain HTTP and asks for no signatures, and returns what it did.
pub fn skopeo(command: &str, options: &[&str], images: &[&str]) -> Output {
    Command::new(tool("skopeo"))
        .args(["--insecure-policy", command])
        .args(options)
        .args(images)
        .output()
        .unwrap()
}

/// How much longer than on a quiet machine something may take.
const BUSY: u64 = 4;

/// Waits until a condition holds, or fails with what was awaited: `seconds` on a quiet machine, more on a busy one.
///
/// What takes long is asked for less often, so that the question does not keep the servers from it.
pub fn wait_for<T>(what: &str, seconds: u64, mut condition: impl FnMut() -> Option<T>) -> T {
    let (begun, limit) = (Instant::now(), Duration::from_secs(seconds * BUSY));
    loop {
        if let Some(value) = condition() {
            return value;
        }
        let waited = begun.elapsed();
        assert!(waited < limit, "waited {waited:?} in vain for: {what}");
        let pause = (waited / 20).clamp(Duration::from_millis(50), Duration::from_secs(1));
        std::thread::sleep(pause);
    }
}

/// Lets time pass in which something is away, or in which nothing may happen.
pub fn pass(time: Duration) {
    std::thread::sleep(time);
}

/// Returns the Python that has the libraries of the tests.
pub fn python() -> PathBuf {
    let path = tools_folder().join("python/bin/python");
    assert!(
        path.exists(),
        "the Python of the tests is not installed; run `deploy/tools --for tests`"
    );
    path
}
