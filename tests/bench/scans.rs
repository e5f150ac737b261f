//! Scans an image of 100 MiB with the scanner adapter and with Trivy alone, side by side, and says what each took.
//!
//! `cargo run --release --example scans [MIB] [ROUNDS]`, after the services were built with the same profile. Trivy alone is
//! what the adapter ran before it read layers itself: its client fetches the image from the registry, takes it as it is, and
//! asks its server, and a second run makes the bill of materials.
#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use sluice_domain::Digest;
use sluice_events::commands::ScanImage;
use sluice_state::key;
use sluice_tests::hostile::archive::Archive;
use sluice_tests::hostile::{CLEAN, Layer, STATUS, Spec, system};
use sluice_tests::{BusClient, Database, Stack, Upstream, pass, tool, wait_for};
use tempfile::TempDir;

const REPOSITORY: &str = "team/app";
/// How long anything may take.
const LONG: u64 = 600;
/// Layers of an image besides the one with its packages.
const LAYERS: usize = 4;

/// What one scan took.
struct Taken {
    took: Duration,
    requests: usize,
    blob_requests: usize,
    sent_bytes: u64,
}

/// Trivy as it runs by itself: a server with a database and what it found in layers.
struct Alone {
    server: Child,
    address: String,
    folder: TempDir,
}

impl Alone {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Database::of("2020-01-02T00:00:00Z").write(folder.path());
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let server = Command::new(tool("trivy"))
            .args([
                "server",
                "--quiet",
                "--skip-db-update",
                "--listen",
                &address,
            ])
            .arg("--cache-dir")
            .arg(folder.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("Trivy's server", 30, || TcpStream::connect(&address).ok());
        Self {
            server,
            address,
            folder,
        }
    }

    fn run(&self, arguments: &[&str]) {
        let output = Command::new(tool("trivy"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env("TRIVY_USERNAME", "publisher")
            .env("TRIVY_PASSWORD", "publisherpublisher")
            .env("TRIVY_NON_SSL", "true")
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaint}");
    }

    fn scan(&self, image: &str) {
        let server = format!("http://{}", self.address);
        let asked = [
            "image",
            "--quiet",
            "--insecure",
            "--scanners",
            "vuln",
            "--list-all-pkgs",
        ];
        let from = [
            "--image-src",
            "remote",
            "--offline-scan",
            "--server",
            &server,
            image,
        ];
        let report = ["--format", "json", "--output", "report.json"];
        self.run(&[&asked[..], &report, &from].concat());
        let converted = [
            "--format",
            "cyclonedx",
            "--output",
            "sbom.json",
            "report.json",
        ];
        self.run(&[&["convert", "--quiet"], &converted[..]].concat());
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

struct Scene {
    stack: Stack,
    bus: BusClient,
    /// Whose pushes are not scanned by themselves.
    writer: Upstream,
    random: u64,
}

impl Scene {
    fn start() -> Self {
        let mut stack = Stack::start(7_200);
        Database::of("2020-01-02T00:00:00Z").publish(&stack);
        let account = stack.account("publisher", "push: [team/*]\n");
        stack.apply(account.trim_start_matches("---\n"));
        stack.may_leave_messages();
        let publisher =
            Upstream::with_account(&stack.internal.host, "publisher", "publisherpublisher");
        wait_for("the gateway to know the publisher", 20, || {
            (publisher.try_upload(REPOSITORY) == 202).then_some(())
        });
        let (bus, writer) = (stack.bus(), stack.as_service("mirror-worker"));
        Self {
            stack,
            bus,
            writer,
            random: 1,
        }
    }

    /// Makes a layer of files, half of each like text and half like what is compressed already.
    fn layer(&mut self, size: usize) -> Layer {
        const FILE: usize = 64 << 10;
        let mut archive = Archive::default();
        for number in 0..size / FILE {
            let mut content = vec![0; FILE];
            for word in content[..FILE / 2].chunks_mut(8) {
                // xorshift64
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                word.copy_from_slice(&self.random.to_le_bytes());
            }
            for (at, byte) in content[FILE / 2..].iter_mut().enumerate() {
                *byte = b"a line of text of a program\n"[(at + number) % 28];
            }
            archive = archive.file(&format!("opt/app/{}/{number}", self.random), content);
        }
        Layer::gzip(&archive.finish())
    }

    fn push(&self, layers: &[Layer], tag: &str) -> Digest {
        let image = Spec::of(layers.to_vec())
            .config("/config/Labels", json!({ "tag": tag }))
            .build();
        assert_eq!(image.push(&self.writer, REPOSITORY, tag), 201);
        image.digest().parse().unwrap()
    }

    /// Counts what the registry is asked while something is done.
    fn measured(&self, work: impl FnOnce()) -> Taken {
        let before = self.stack.internal.requests().len();
        let sent_before = self.stack.internal.sent_bytes();
        let began = Instant::now();
        work();
        let took = began.elapsed();
        // The log is written as requests end.
        pass(Duration::from_millis(300));
        let requests = self.stack.internal.requests().split_off(before);
        let is_blob = |line: &&String| line.starts_with("GET") && line.contains("/blobs/");
        Taken {
            took,
            blob_requests: requests.iter().filter(is_blob).count(),
            requests: requests.len(),
            sent_bytes: self.stack.internal.sent_bytes() - sent_before,
        }
    }

    fn scan(&self, digest: &Digest) -> Taken {
        self.measured(|| {
            self.bus.command(ScanImage {
                repository: REPOSITORY.parse().unwrap(),
                tag: None,
                digest: digest.clone(),
            });
            let key = key::verdict(digest);
            wait_for("the verdict", LONG, || {
                self.bus.run(self.bus.state.verdicts.get(&key)).unwrap()
            });
        })
    }

    fn alone(&self, trivy: &Alone, digest: &Digest) -> Taken {
        let image = format!("{}/{REPOSITORY}@{digest}", self.stack.internal.host);
        self.measured(|| trivy.scan(&image))
    }
}

/// Returns the peak of a process's memory in MiB.
fn peak(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().trim_end_matches(" kB");
    peak.parse::<f64>().unwrap() / 1_024.0
}

fn tell(what: &str, taken: &Taken, peer: Option<&Taken>) {
    let seconds = taken.took.as_secs_f64();
    let ratio = peer.map_or(String::new(), |peer| {
        format!(", {:.2} of it", seconds / peer.took.as_secs_f64())
    });
    println!(
        "{what:36} {seconds:6.2} s, {} requests, {} of them for blobs, {:.1} MiB read{ratio}",
        taken.requests,
        taken.blob_requests,
        taken.sent_bytes as f64 / 1_048_576.0
    );
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse().unwrap());
    let (size, rounds) = (
        numbers.next().unwrap_or(100_usize),
        numbers.next().unwrap_or(3_usize),
    );
    let mut scene = Scene::start();
    let scanner = scene.stack.scanner(&[]);
    let process = scene.stack.process_id(scanner);
    let trivy = Alone::start();
    println!("the adapter at rest has {:.1} MiB", peak(process));
    for round in 1..=rounds {
        let mut layers = vec![Layer::gzip(&system().file(STATUS, CLEAN).finish())];
        // Half of what is unpacked does not compress.
        let each = size * 2 / LAYERS;
        layers.extend((0..LAYERS).map(|_| scene.layer(each << 20)));
        let first = scene.push(&layers, &format!("{round}"));
        let again = scene.push(&layers, &format!("{round}-again"));
        println!("round {round}: {size} MiB in {} layers", layers.len());
        let alone = scene.alone(&trivy, &first);
        tell("  Trivy alone, new layers", &alone, None);
        let taken = scene.scan(&first);
        tell("  adapter, new layers", &taken, Some(&alone));
        let alone = scene.alone(&trivy, &again);
        tell("  Trivy alone, known layers", &alone, None);
        let taken = scene.scan(&again);
        tell("  adapter, known layers", &taken, Some(&alone));
        println!("  the adapter had at most {:.1} MiB", peak(process));
    }
}
