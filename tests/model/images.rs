//! The images of the model: three plain ones, and indexes that share them.

use std::sync::LazyLock;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// The media type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A manifest with what it needs.
#[derive(Debug, Clone)]
pub struct Image {
    /// A short name for traces.
    pub name: &'static str,
    /// Its digest.
    pub digest: String,
    /// Its media type.
    pub media_type: &'static str,
    /// Its bytes.
    pub raw: Bytes,
    /// The digests and bytes of its blobs.
    pub blobs: Vec<(String, Bytes)>,
    /// The manifests that it lists.
    pub children: Vec<String>,
}

/// Every image; those that are listed come before those that list them.
pub static POOL: LazyLock<Vec<Image>> = LazyLock::new(|| {
    let (x, y, z) = (
        plain("x", "amd64"),
        plain("y", "arm64"),
        plain("z", "amd64"),
    );
    let xy = index("xy", &[&x, &y]);
    let zy = index("zy", &[&z, &y]);
    vec![x, y, z, xy, zy]
});

/// Returns the image of a digest.
pub fn of_digest(digest: &str) -> Option<&'static Image> {
    POOL.iter().find(|image| image.digest == digest)
}

/// Names a digest for traces.
pub fn short(text: &str) -> String {
    let mut short = text.to_owned();
    for image in POOL.iter() {
        short = short.replace(&image.digest, image.name);
        short = short.replace(&image.digest.replace(':', "=3A"), image.name);
    }
    short
}

/// Returns the digest of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

fn plain(name: &'static str, architecture: &str) -> Image {
    let config = Bytes::from(format!(
        r#"{{"architecture":"{architecture}","os":"linux","created":"2026-01-01T00:00:00Z","author":"{name}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#
    ));
    let config_digest = digest(&config);
    let raw = Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"{CONFIG}","digest":"{config_digest}","size":{}}},"layers":[]}}"#,
        config.len()
    ));
    Image {
        name,
        digest: digest(&raw),
        media_type: MANIFEST,
        raw,
        blobs: vec![(config_digest, config)],
        children: Vec::new(),
    }
}

fn index(name: &'static str, children: &[&Image]) -> Image {
    let listed: Vec<String> = children
        .iter()
        .map(|child| {
            let architecture = if child.name == "y" { "arm64" } else { "amd64" };
            format!(
                r#"{{"mediaType":"{MANIFEST}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
                child.digest,
                child.raw.len()
            )
        })
        .collect();
    let raw = Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#,
        listed.join(",")
    ));
    Image {
        name,
        digest: digest(&raw),
        media_type: INDEX,
        raw,
        blobs: Vec::new(),
        children: children.iter().map(|child| child.digest.clone()).collect(),
    }
}
