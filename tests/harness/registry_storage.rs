//! Fills the storage of a registry with more tags than could be pushed while somebody waits.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::image::{gzip, tar};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A storage, and the small images that its tags may point to.
#[derive(Debug)]
pub struct Many {
    root: PathBuf,
    images: Vec<Written>,
}

/// An image that is in the storage.
#[derive(Debug)]
struct Written {
    manifest: String,
    blobs: Vec<String>,
}

impl Many {
    /// Writes this many images into the storage of a Distribution registry, which may be running.
    pub fn in_storage(storage: &Path, images: usize) -> Self {
        let mut many = Self {
            root: storage.join("docker/registry/v2"),
            images: Vec::new(),
        };
        for number in 0..images {
            let content = number.to_string();
            let files = tar(&[("content", content.as_str())]);
            let layer = many.blob(&gzip(&files));
            let diff_id = format!("sha256:{}", hex::encode(Sha256::digest(&files)));
            let config = json!({
                "architecture": "amd64", "os": "linux", "config": {},
                "rootfs": { "type": "layers", "diff_ids": [diff_id] }
            });
            let config = many.blob(config.to_string().as_bytes());
            let document = json!({
                "schemaVersion": 2, "mediaType": MANIFEST,
                "config": {
                    "mediaType": "application/vnd.oci.image.config.v1+json",
                    "digest": format!("sha256:{}", config.0), "size": config.1
                },
                "layers": [{
                    "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                    "digest": format!("sha256:{}", layer.0), "size": layer.1
                }]
            });
            let (manifest, _) = many.blob(document.to_string().as_bytes());
            let blobs = vec![config.0, layer.0];
            many.images.push(Written { manifest, blobs });
        }
        many
    }

    /// Lets a repository have every image, and points these tags to one of them.
    pub fn repository(&self, name: &str, tags: impl IntoIterator<Item = String>, image: usize) {
        let folder = self.root.join("repositories").join(name);
        for image in &self.images {
            link(&folder.join("_manifests/revisions/sha256"), &image.manifest);
            for blob in &image.blobs {
                link(&folder.join("_layers/sha256"), blob);
            }
        }
        for tag in tags {
            self.point(name, &tag, image);
        }
    }

    /// Points a tag to an image.
    pub fn point(&self, name: &str, tag: &str, image: usize) {
        let tags = self.root.join("repositories").join(name);
        let tag = tags.join("_manifests/tags").join(tag);
        let manifest = &self.images[image].manifest;
        link(&tag.join("index/sha256"), manifest);
        fs::create_dir_all(tag.join("current")).unwrap();
        fs::write(tag.join("current/link"), format!("sha256:{manifest}")).unwrap();
    }

    /// Returns the digest of an image.
    pub fn digest(&self, image: usize) -> String {
        format!("sha256:{}", self.images[image].manifest)
    }

    fn blob(&self, bytes: &[u8]) -> (String, usize) {
        let hex = hex::encode(Sha256::digest(bytes));
        let folder = self.root.join("blobs/sha256").join(&hex[..2]).join(&hex);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("data"), bytes).unwrap();
        (hex, bytes.len())
    }
}

/// Writes a link to something by its hash.
fn link(folder: &Path, hex: &str) {
    let folder = folder.join(hex);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("link"), format!("sha256:{hex}")).unwrap();
}
