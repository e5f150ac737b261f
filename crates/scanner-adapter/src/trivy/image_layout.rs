//! The OCI image layout that Trivy reads: one image with unpacked layers, in a folder where Trivy can write nothing.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sluice_domain::Digest;
use sluice_registry::digest_of;

use crate::image::documents::ImageDocuments;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Every layer is an uncompressed tar, so the digest of the blob is its diff id.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The layout of one image.
#[derive(Debug)]
pub(crate) struct ImageLayout {
    folder: PathBuf,
    /// The name of the image in the report.
    name: String,
}

impl ImageLayout {
    /// Makes an empty layout in a folder, and a link to it in the folder where Trivy runs, so that Trivy names the image
    /// `<name>@<digest>`.
    ///
    /// Layers are written while Trivy runs. Because it may change everything in its own folder, they are in another.
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

    /// Returns the path of the blob with a digest.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }

    /// Writes index, manifest and configuration. The layers follow later, except those that were analysed before.
    ///
    /// Returns the digest of the configuration, by which Trivy's report names the image.
    pub(crate) fn write_documents(
        &self,
        documents: &ImageDocuments,
        digest: &Digest,
    ) -> io::Result<Digest> {
        let mut layers = Vec::new();
        for layer in &documents.layers {
            // Trivy reads no size, and the size of a tar is not known yet.
            layers.push(json!({ "mediaType": LAYER, "digest": layer.diff_id, "size": 0 }));
        }
        let image_id = digest_of(documents.config.as_bytes());
        let config = self.put(CONFIG, documents.config.as_bytes())?;
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        let mut entry = self.put(MANIFEST, manifest.to_string().as_bytes())?;
        if let Some(entry) = entry.as_object_mut() {
            // Trivy finds the image by the digest of the manifest that was verified.
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

    /// Returns the argument with which Trivy finds the image.
    pub(crate) fn input(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name)
    }

    fn put(&self, media_type: &str, bytes: &[u8]) -> io::Result<Value> {
        let digest = digest_of(bytes);
        fs::write(self.blob(&digest), bytes)?;
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
    }
}
