//! Makes images and pushes them to an upstream registry, as a publisher would.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::blocking::Client;
use serde_json::json;
use sha2::{Digest as _, Sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ACCEPT: &str =
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";

/// A manifest that was pushed.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its digest.
    pub digest: String,
    /// Its bytes.
    pub raw: Vec<u8>,
    /// Its media type.
    pub media_type: &'static str,
}

/// A registry that images are pushed to.
#[derive(Debug)]
pub struct Upstream {
    client: Client,
    base: String,
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Packs bytes as layers are packed.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// Makes an archive of files, in the oldest form that everybody reads.
pub(crate) fn tar<T: AsRef<[u8]>>(files: &[(&str, T)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (path, content) in files {
        let content = content.as_ref();
        let mut header = [0; 512];
        let mut field = |at: usize, text: &str| {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        field(0, path);
        field(100, "0000644");
        field(108, "0000000");
        field(116, "0000000");
        field(124, &format!("{:011o}", content.len()));
        field(136, "00000000000");
        // The sum is made as if its own field were blank.
        field(148, "        ");
        field(156, "0");
        field(257, "ustar");
        field(263, "00");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend(header);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

impl Upstream {
    /// Speaks plain HTTP to this host.
    pub fn new(host: &str) -> Self {
        Self {
            client: Client::new(),
            base: format!("http://{host}/v2"),
        }
    }

    /// Pushes a blob and returns its descriptor.
    pub fn blob(&self, repository: &str, media_type: &str, bytes: &[u8]) -> serde_json::Value {
        let start = self
            .client
            .post(format!("{}/{repository}/blobs/uploads/", self.base))
            .send()
            .unwrap();
        let at = start.headers()["location"].to_str().unwrap().to_owned();
        let origin = self.base.strip_suffix("/v2").unwrap();
        let at = if at.starts_with('/') {
            format!("{origin}{at}")
        } else {
            at
        };
        let request = self.client.put(at).query(&[("digest", digest(bytes))]);
        assert_eq!(request.body(bytes.to_vec()).send().unwrap().status(), 201);
        json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
    }

    /// Pushes an image of one small layer for a platform and returns it, without a tag.
    pub fn image(&self, repository: &str, architecture: &str, content: &str) -> Image {
        self.files(repository, architecture, &[("content", content)])
    }

    /// Pushes an image of one layer with these files and returns it, without a tag.
    pub fn files(&self, repository: &str, architecture: &str, files: &[(&str, &str)]) -> Image {
        self.claiming(repository, architecture, files, files)
    }

    /// Pushes an image whose configuration claims other files than its layer has, and returns it, without a tag.
    pub fn claiming(
        &self,
        repository: &str,
        architecture: &str,
        claimed: &[(&str, &str)],
        files: &[(&str, &str)],
    ) -> Image {
        let layer = self.blob(repository, LAYER, &gzip(&tar(files)));
        self.manifest(repository, architecture, layer, &digest(&tar(claimed)))
    }

    /// Pushes an image over a layer that is there and returns it, without a tag.
    pub fn image_of(&self, repository: &str, layer: serde_json::Value) -> Image {
        let diff_id = layer["digest"].as_str().unwrap().to_owned();
        self.manifest(repository, "amd64", layer, &diff_id)
    }

    fn manifest(
        &self,
        repository: &str,
        architecture: &str,
        layer: serde_json::Value,
        diff_id: &str,
    ) -> Image {
        let config = json!({
            "architecture": architecture, "os": "linux", "created": "2026-01-01T00:00:00Z", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [diff_id] }
        });
        let config = self.blob(
            repository,
            "application/vnd.oci.image.config.v1+json",
            config.to_string().as_bytes(),
        );
        self.artifact(repository, config, layer)
    }

    /// Pushes a manifest over blobs that are there and returns it, without a tag.
    pub fn artifact(
        &self,
        repository: &str,
        config: serde_json::Value,
        layer: serde_json::Value,
    ) -> Image {
        // Written with a space that no serialiser would write, so that a copy that re-serialises is found out.
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        let raw = format!("{manifest} \n").into_bytes();
        let image = Image {
            digest: digest(&raw),
            raw,
            media_type: MANIFEST,
        };
        self.put(repository, &image.digest, &image);
        image
    }

    /// Pushes an index over images and returns it, without a tag.
    pub fn index(&self, repository: &str, children: &[(&str, &Image)]) -> Image {
        let children: Vec<_> = children
            .iter()
            .map(|(architecture, image)| {
                json!({
                    "mediaType": image.media_type, "digest": image.digest, "size": image.raw.len(),
                    "platform": { "os": "linux", "architecture": architecture }
                })
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children });
        let raw = format!("{index}\n").into_bytes();
        let image = Image {
            digest: digest(&raw),
            raw,
            media_type: INDEX,
        };
        self.put(repository, &image.digest, &image);
        image
    }

    /// Points a tag, or the digest itself, to a manifest.
    pub fn put(&self, repository: &str, reference: &str, image: &Image) {
        let url = format!("{}/{repository}/manifests/{reference}", self.base);
        let request = self
            .client
            .put(url)
            .header("content-type", image.media_type);
        assert_eq!(
            request.body(image.raw.clone()).send().unwrap().status(),
            201
        );
    }

    /// Returns the bytes behind a tag or digest, if there are any.
    pub fn get(&self, repository: &str, reference: &str) -> Option<Vec<u8>> {
        let url = format!("{}/{repository}/manifests/{reference}", self.base);
        let answer = self
            .client
            .get(url)
            .header("accept", ACCEPT)
            .send()
            .unwrap();
        answer
            .status()
            .is_success()
            .then(|| answer.bytes().unwrap().to_vec())
    }

    /// Deletes a digest with every tag that points to it.
    pub fn delete(&self, repository: &str, digest: &str) {
        let url = format!("{}/{repository}/manifests/{digest}", self.base);
        assert_eq!(self.client.delete(url).send().unwrap().status(), 202);
    }
}
