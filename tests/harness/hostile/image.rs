//! Images as bytes: blobs and documents that need not fit together.

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::packing::gzip;
use crate::Upstream;

/// The media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of an image's configuration.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type of a layer that is not packed.
pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// The media type of a layer that is packed with gzip.
pub const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The media type of a layer that is packed with zstd.
pub const TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// The media type of a layer of Docker.
pub const DOCKER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// Returns the digest of bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// A layer of an image: a blob, and what the image says of it.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The bytes.
    pub blob: Vec<u8>,
    /// The digest of what is in it, as the configuration has it.
    pub diff_id: String,
    /// Its descriptor.
    pub descriptor: Value,
}

impl Layer {
    /// Makes a layer of a blob that is said to hold these bytes.
    pub fn new(media_type: &str, blob: Vec<u8>, unpacked: &[u8]) -> Self {
        let descriptor =
            json!({ "mediaType": media_type, "digest": digest(&blob), "size": blob.len() });
        Self {
            blob,
            diff_id: digest(unpacked),
            descriptor,
        }
    }

    /// Makes a layer of an archive, packed with gzip.
    pub fn gzip(archive: &[u8]) -> Self {
        Self::new(TAR_GZIP, gzip(archive), archive)
    }

    /// Sets something in its descriptor.
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.descriptor[key] = value;
        self
    }
}

/// A manifest or an index.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its media type.
    pub media_type: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Document {
    /// Returns its descriptor.
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": digest(&self.bytes), "size": self.bytes.len() })
    }
}

/// An image with all that it consists of; the last document is the image itself.
#[derive(Debug, Clone, Default)]
pub struct Bundle {
    /// The blobs.
    pub blobs: Vec<Vec<u8>>,
    /// The documents, children first.
    pub documents: Vec<Document>,
}

impl Bundle {
    /// Returns the document that is the image.
    pub fn top(&self) -> &Document {
        self.documents.last().unwrap()
    }

    /// Returns the digest of the image.
    pub fn digest(&self) -> String {
        digest(&self.top().bytes)
    }

    /// Makes an index over images, each with what its descriptor says beside media type, digest and size.
    pub fn index(children: Vec<(Bundle, Value)>) -> Self {
        let mut bundle = Self::default();
        let mut descriptors = Vec::new();
        for (child, more) in children {
            let mut descriptor = child.top().descriptor();
            let more = more.as_object().cloned().unwrap_or_default();
            descriptor.as_object_mut().unwrap().extend(more);
            descriptors.push(descriptor);
            bundle.blobs.extend(child.blobs);
            bundle.documents.extend(child.documents);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors });
        let bytes = index.to_string().into_bytes();
        bundle.documents.push(Document {
            media_type: INDEX,
            bytes,
        });
        bundle
    }

    /// Changes the text of the image's document.
    pub fn rewritten(mut self, change: impl FnOnce(&str) -> String) -> Self {
        let top = self.documents.last_mut().unwrap();
        top.bytes = change(std::str::from_utf8(&top.bytes).unwrap()).into_bytes();
        self
    }

    /// Pushes everything and points a tag to it; returns the status of the last request, 201 where the registry took it.
    pub fn push(&self, registry: &Upstream, repository: &str, tag: &str) -> u16 {
        for blob in &self.blobs {
            registry.blob(repository, "", blob);
        }
        let mut status = 0;
        for (number, document) in self.documents.iter().enumerate() {
            let is_top = number + 1 == self.documents.len();
            let digest = digest(&document.bytes);
            let reference = if is_top { tag } else { &digest };
            status = registry.try_put_document(
                repository,
                reference,
                document.media_type,
                &document.bytes,
            );
        }
        status
    }
}

/// What an image is made of, to be changed before it is put together.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its layers.
    pub layers: Vec<Layer>,
    /// Its configuration, without the layers.
    pub config: Value,
    /// The media type of its configuration.
    pub config_type: String,
    /// The digests of what is in the layers, if not those of the layers.
    pub diff_ids: Option<Vec<String>>,
}

impl Spec {
    /// Takes these layers as they are.
    pub fn of(layers: Vec<Layer>) -> Self {
        let config = json!({ "architecture": "amd64", "os": "linux", "config": {}, "rootfs": { "type": "layers" } });
        Self {
            layers,
            config,
            config_type: CONFIG.to_owned(),
            diff_ids: None,
        }
    }

    /// Lets the configuration name other contents than the layers have.
    pub fn diff_ids(mut self, diff_ids: &[&[u8]]) -> Self {
        self.diff_ids = Some(diff_ids.iter().map(|bytes| digest(bytes)).collect());
        self
    }

    /// Sets something in the configuration.
    pub fn config(mut self, pointer: &str, value: Value) -> Self {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        self.config.pointer_mut(parent).unwrap()[key] = value;
        self
    }

    /// Sets the media type of the configuration.
    pub fn config_type(mut self, media_type: &str) -> Self {
        media_type.clone_into(&mut self.config_type);
        self
    }

    /// Puts the image together.
    pub fn build(self) -> Bundle {
        self.build_with(|config| config.to_string())
    }

    /// Puts the image together, with a configuration that is written in another way.
    pub fn build_with(self, write: impl FnOnce(&Value) -> String) -> Bundle {
        let mut config = self.config;
        let named = self.layers.iter().map(|layer| layer.diff_id.clone());
        config["rootfs"]["diff_ids"] = json!(self.diff_ids.unwrap_or_else(|| named.collect()));
        let config = write(&config).into_bytes();
        let layers: Vec<_> = self.layers.iter().map(|layer| &layer.descriptor).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": self.config_type, "digest": digest(&config), "size": config.len() },
            "layers": layers,
        });
        let mut blobs: Vec<Vec<u8>> = self.layers.into_iter().map(|layer| layer.blob).collect();
        blobs.push(config);
        let bytes = manifest.to_string().into_bytes();
        Bundle {
            blobs,
            documents: vec![Document {
                media_type: MANIFEST,
                bytes,
            }],
        }
    }
}
