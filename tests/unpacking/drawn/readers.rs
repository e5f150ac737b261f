//! Readers that choose and unpack as clients do (the design's page on unpacking, sections 1, 3, 5 and 6).
//!
//! Where versions of a client differ, each takes whatever one of them takes: what they unpack here a client may unpack.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use serde_json::Value;
use sluice_tests::hostile::image::digest;
use sluice_tests::hostile::packing;
use sluice_tests::tree::{self, Tree};

use super::memory::Wire;

/// Where something runs: architecture and variant, as a client has them.
pub type Host = (&'static str, &'static str);

/// The hosts for which clients choose.
pub const HOSTS: [Host; 6] = [
    ("amd64", ""),
    ("arm64", "v8"),
    ("arm", "v7"),
    ("386", ""),
    ("s390x", ""),
    ("unknown", ""),
];

/// How deep a client follows indexes.
const MOST_NESTED: usize = 4;

/// A client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// containerd 1.6: refuses layers of a type that it does not know.
    Containerd16,
    /// containerd from 1.7 on: skips them where the configuration does not count them.
    Containerd17,
    /// Docker's graph driver: takes nearly all types.
    Docker,
    /// podman 4: takes every type, and checks no diff id.
    Podman4,
    /// podman from 5.4 on: checks diff ids, and prefers zstd.
    Podman5,
}

impl Reader {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Containerd16,
        Self::Containerd17,
        Self::Docker,
        Self::Podman4,
        Self::Podman5,
    ];

    fn is_podman(self) -> bool {
        matches!(self, Self::Podman4 | Self::Podman5)
    }

    /// Pulls an image by digest for a host; returns the manifest that is run, and what is unpacked.
    ///
    /// # Errors
    /// What the client refuses.
    pub fn pull(
        self,
        wire: &Wire,
        repository: &str,
        reference: &str,
        host: Host,
    ) -> Result<(String, Tree), String> {
        let mut reference = reference.to_owned();
        for depth in 0..MOST_NESTED {
            let (media_type, bytes) = wire
                .manifest(repository, &reference)
                .ok_or("a manifest is missing")?;
            let document: Value =
                serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
            let is_index = media_type.contains("index") || media_type.contains("list");
            if !is_index {
                let layers = self.unpack(wire, repository, &document)?;
                return Ok((reference, layers));
            }
            if depth > 0 && self.is_podman() {
                return Err("a list instead of a manifest".to_owned());
            }
            let children = document["manifests"].as_array().ok_or("no children")?;
            let child = self.choose(children, host).ok_or("no child for the host")?;
            reference = child["digest"].as_str().ok_or("no digest")?.to_owned();
        }
        Err("indexes in indexes".to_owned())
    }

    /// Chooses a child of an index: the first of those that fit best, and those without a platform last.
    fn choose(self, children: &[Value], host: Host) -> Option<&Value> {
        let rank = |child: &&Value| self.rank(&child["platform"], host);
        let prefers = |child: &&Value| {
            let note = &child["annotations"]["io.github.containers.compression.zstd"];
            u8::from(!(self == Self::Podman5 && *note == "true"))
        };
        let is_taken = |child: &&Value| {
            let media_type = child["mediaType"].as_str().unwrap_or_default();
            // Docker passes over what it does not know.
            self != Self::Docker || media_type.contains("manifest") || media_type.contains("index")
        };
        let fitting = children.iter().filter(|child| rank(child).is_some());
        let fitting = fitting.filter(is_taken);
        // Of equal ones the first is taken.
        fitting.min_by_key(|child| (rank(child), prefers(child)))
    }

    /// Says how well a platform fits; less is better.
    fn rank(self, platform: &Value, host: Host) -> Option<usize> {
        let text = |key: &str| platform[key].as_str().unwrap_or_default().to_owned();
        if platform.is_null() {
            return Some(usize::MAX);
        }
        let (mut os, mut architecture, mut variant) =
            (text("os"), text("architecture"), text("variant"));
        if !self.is_podman() {
            os = os.to_lowercase();
            architecture = architecture.to_lowercase();
            variant = variant.to_lowercase();
            (architecture, variant) = match (&*architecture, &*variant) {
                ("x86_64" | "amd64", "" | "v1") => ("amd64".to_owned(), String::new()),
                ("x86_64", _) => ("amd64".to_owned(), variant),
                ("aarch64" | "arm64", "" | "8" | "v8") => ("arm64".to_owned(), "v8".to_owned()),
                ("i386", _) => ("386".to_owned(), String::new()),
                ("arm", "") => (architecture, "v7".to_owned()),
                _ => (architecture, variant),
            };
        }
        let is_os = os == "linux" || host.0 == "unknown" && os == "unknown";
        let wanted: Vec<Host> = match host {
            ("amd64", _) if self.is_podman() => vec![("amd64", "")],
            ("amd64", _) => vec![("amd64", ""), ("386", "")],
            ("arm64", _) if self.is_podman() => vec![("arm64", "v8"), ("arm64", "")],
            ("arm64", _) => vec![
                ("arm64", "v8"),
                ("arm", "v8"),
                ("arm", "v7"),
                ("arm", "v6"),
                ("arm", "v5"),
            ],
            ("arm", _) => vec![("arm", "v7"), ("arm", "v6"), ("arm", "v5"), ("arm", "")],
            other => vec![other],
        };
        let fits = |wanted: &Host| *wanted == (&*architecture, &*variant);
        wanted.iter().position(fits).filter(|_| is_os)
    }

    fn unpack(self, wire: &Wire, repository: &str, manifest: &Value) -> Result<Tree, String> {
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().ok_or("no digest")?;
            wire.blob(repository, digest).ok_or("a blob is missing")
        };
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])?)
            .map_err(|error| error.to_string())?;
        let diff_ids = config["rootfs"]["diff_ids"].as_array();
        let diff_ids = diff_ids.cloned().unwrap_or_default();
        let mut layers: Vec<&Value> = manifest["layers"]
            .as_array()
            .into_iter()
            .flatten()
            .collect();
        let is_known = |layer: &Value| {
            let kind = layer["mediaType"].as_str().unwrap_or_default();
            kind.starts_with("application/vnd.oci.image.layer.")
                || kind.starts_with("application/vnd.docker.image.rootfs.")
        };
        match self {
            Self::Containerd16 if !layers.iter().all(|layer| is_known(layer)) => {
                return Err("a layer of an unknown type".to_owned());
            }
            Self::Containerd17 => layers.retain(|layer| is_known(layer)),
            _ => {}
        }
        if self != Self::Podman4 && layers.len() != diff_ids.len() {
            return Err("other diff ids than layers".to_owned());
        }
        let mut archives = Vec::new();
        for (number, layer) in layers.into_iter().enumerate() {
            let archive = decompress(&blob(layer)?)?;
            if self != Self::Podman4 && diff_ids[number] != digest(&archive) {
                return Err("a wrong diff id".to_owned());
            }
            archives.push(archive);
        }
        tree::unpack(&archives)
    }
}

/// Decompresses by what the bytes begin with, whatever the type says; a skippable frame of zstd may come first.
fn decompress(blob: &[u8]) -> Result<Vec<u8>, String> {
    match blob {
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(unpacked(blob)),
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, length @ ..] => {
            let length = length.first_chunk().ok_or("a frame that is cut")?;
            let length = usize::try_from(u32::from_le_bytes(*length)).unwrap();
            decompress(blob.get(8 + length..).ok_or("a frame that is cut")?)
        }
        _ => Ok(blob.to_vec()),
    }
}

/// Unpacks a blob once; there are few, and each may take a process.
fn unpacked(blob: &[u8]) -> Vec<u8> {
    static UNPACKED: LazyLock<Mutex<HashMap<Vec<u8>, Vec<u8>>>> = LazyLock::new(Mutex::default);
    let mut unpacked = UNPACKED.lock().unwrap();
    let unpacked = unpacked.entry(blob.to_vec());
    unpacked.or_insert_with(|| packing::unpack(blob)).clone()
}
