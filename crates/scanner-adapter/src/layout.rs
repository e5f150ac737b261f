//! The OCI image layout that Trivy reads: one image, its layers unpacked, in a folder where Trivy can write nothing.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sluice_domain::Digest;
use sluice_registry::digest_of;

use crate::content::ImageContent;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Every layer is a bare tar, so the digest of the blob is its diff id.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layout that is being written.
#[derive(Debug)]
pub(crate) struct Layout {
    folder: PathBuf,
    /// How Trivy is to call the image.
    name: String,
}

impl Layout {
    /// Makes an empty layout in a folder, and a link to it in the one where Trivy runs and calls the image
    /// `<name>@<digest>`.
    ///
    /// Layers are written while Trivy runs, which may do what it likes in its own folder, so they lie in another.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub(crate) fn create(folder: &Path, run: &Path, name: String) -> io::Result<Self> {
        fs::create_dir_all(folder.join("blobs/sha256"))?;
        let link = run.join(&name);
        link.parent().map_or(Ok(()), fs::create_dir_all)?;
        symlink(folder, link)?;
        Ok(Self {
            folder: folder.to_owned(),
            name,
        })
    }

    /// Returns where the tar with this digest belongs.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }

    /// Writes the documents around the layers, which need not be there yet, and those that are known never are.
    ///
    /// Returns the digest by which Trivy's report names the image: that of the configuration.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub(crate) fn finish(&self, content: &ImageContent, digest: &Digest) -> io::Result<Digest> {
        let mut layers = Vec::new();
        for layer in &content.layers {
            // Trivy reads no size, and how large a tar is shows when it was read.
            layers.push(json!({ "mediaType": LAYER, "digest": layer.diff_id, "size": 0 }));
        }
        let image_id = digest_of(content.config.as_bytes());
        let config = self.put(CONFIG, content.config.as_bytes())?;
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        let mut entry = self.put(MANIFEST, manifest.to_string().as_bytes())?;
        if let Some(entry) = entry.as_object_mut() {
            // So it is found by the digest of the manifest that was verified.
            let name = json!({ "org.opencontainers.image.ref.name": digest });
            entry.insert("annotations".to_owned(), name);
        }
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        fs::write(self.folder.join("index.json"), index.to_string())?;
        fs::write(
            self.folder.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        Ok(image_id)
    }

    /// Returns the argument by which Trivy finds the image.
    pub(crate) fn input(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name)
    }

    fn put(&self, media_type: &str, bytes: &[u8]) -> io::Result<Value> {
        let digest = digest_of(bytes);
        fs::write(self.blob(&digest), bytes)?;
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
    }
}
