//! Makes images and pushes them to an upstream registry, as a publisher would.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::blocking::{Body, Client};
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
        self.upload(repository, &digest(bytes), Body::from(bytes.to_vec()));
        json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
    }

    /// Pushes a layer that is never in memory as a whole and returns its descriptor.
    pub fn large_layer(&self, repository: &str, size: u64) -> serde_json::Value {
        let content = || std::io::repeat(b'x').take(size);
        let (mut hash, mut chunk, mut reader) = (Sha256::new(), vec![0; 1 << 20], content());
        loop {
            let read = reader.read(&mut chunk).unwrap();
            if read == 0 {
                break;
            }
            hash.update(&chunk[..read]);
        }
        let digest = format!("sha256:{}", hex::encode(hash.finalize()));
        self.upload(repository, &digest, Body::sized(content(), size));
        json!({ "mediaType": LAYER, "digest": digest, "size": size })
    }

    fn upload(&self, repository: &str, digest: &str, body: Body) {
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
        let request = self.client.put(at).query(&[("digest", digest)]);
        let request = request.timeout(Duration::from_secs(300)).body(body);
        assert_eq!(request.send().unwrap().status(), 201);
    }

    /// Pushes an image of one small layer for a platform and returns it, without a tag.
    pub fn image(&self, repository: &str, architecture: &str, content: &str) -> Image {
        let mut layer = GzEncoder::new(Vec::new(), Compression::fast());
        layer.write_all(content.as_bytes()).unwrap();
        let layer = layer.finish().unwrap();
        let layer = self.blob(repository, LAYER, &layer);
        self.manifest(repository, architecture, layer)
    }

    /// Pushes an image over a layer that is there and returns it, without a tag.
    pub fn image_of(&self, repository: &str, layer: serde_json::Value) -> Image {
        self.manifest(repository, "amd64", layer)
    }

    fn manifest(&self, repository: &str, architecture: &str, layer: serde_json::Value) -> Image {
        let config = json!({
            "architecture": architecture, "os": "linux", "created": "2026-01-01T00:00:00Z", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] }
        });
        let config = self.blob(
            repository,
            "application/vnd.oci.image.config.v1+json",
            config.to_string().as_bytes(),
        );
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
