//! What may lie beside images in a target although nobody scans it: attestations within an index, and what is attached.
//!
//! What is written of a manifest decides nothing, since anybody can write it over what clients run. Every blob is fetched
//! by its digest, within limits, and read to its end as one of the forms below, none of which can be unpacked or mounted.

use bytes::Bytes;
use serde::Deserialize;
use sluice_domain::{Digest, Repository, Tag};

use crate::client::{Client, limited, what};
use crate::error::Error;
use crate::magic::unpackable;
use crate::manifest::{Content, Descriptor, DescriptorPlatform, Manifest, digest_of};
use crate::statement::Form;
use crate::strict;

/// The largest statement, signature or bill of materials.
const MAX_BLOB_BYTES: u64 = 32 << 20;
/// The most bytes of all blobs of one manifest.
const MAX_BYTES: u64 = 64 << 20;
/// The most bytes of blobs that are read of one list.
const MAX_LIST_BYTES: u64 = 256 << 20;
/// The largest configuration.
const MAX_CONFIG_BYTES: u64 = 64 << 10;
/// What the media types of in-toto statements begin with (in-toto attestation framework, "Media types").
const IN_TOTO: &str = "application/vnd.in-toto";
/// The kind of the SOCI snapshotter's indexes, by which it mounts other files than the layers have.
const SOCI: &str = "application/vnd.amazon.soci.";

/// The configuration of an image; cosign writes it for what it makes too, without a platform.
const IMAGE_CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
/// What an attachment has in the place of a configuration; all hold the empty object.
const EMPTY_CONFIGS: [&str; 3] = [
    // OCI image specification 1.1, "Guidance for an Empty Descriptor".
    "application/vnd.oci.empty.v1+json",
    // Notary Project, signature specification, "Storage".
    "application/vnd.cncf.notary.signature",
    // ORAS, where no other is named.
    "application/vnd.unknown.config.v1+json",
];
/// The media types of what may be attached, without parameters, and the form that each claims.
const KINDS: [(&str, Form); 16] = [
    // cosign, pkg/types/media.go, with the forms of `cosign attach sbom` behind a plus sign.
    (
        "application/vnd.dev.cosign.simplesigning.v1+json",
        Form::SimpleSigning,
    ),
    ("application/vnd.cyclonedx", Form::CycloneDx),
    ("text/spdx", Form::Spdx),
    ("text/spdx+json", Form::SpdxJson),
    ("spdx+json", Form::SpdxJson),
    // The registry of media types at IANA.
    ("application/spdx+json", Form::SpdxJson),
    ("application/vnd.cyclonedx+json", Form::CycloneDxJson),
    ("application/vnd.cyclonedx+xml", Form::CycloneDxXml),
    // DSSE, protocol.md; what cosign stores attestations as.
    ("application/vnd.dsse.envelope.v1+json", Form::Dsse),
    // sigstore, protobuf-specs; versions before 0.3 are a parameter.
    ("application/vnd.dev.sigstore.bundle+json", Form::Bundle),
    (
        "application/vnd.dev.sigstore.bundle.v0.1+json",
        Form::Bundle,
    ),
    (
        "application/vnd.dev.sigstore.bundle.v0.2+json",
        Form::Bundle,
    ),
    (
        "application/vnd.dev.sigstore.bundle.v0.3+json",
        Form::Bundle,
    ),
    // Notary Project, signature specification, "Storage".
    ("application/jose+json", Form::Jws),
    ("application/cose", Form::Cose),
    // OCI image specification 1.1: a manifest without layers has this one.
    ("application/vnd.oci.empty.v1+json", Form::Empty),
];

/// What may enter a target of what is attached to an image.
#[derive(Debug)]
pub enum Admissible {
    /// All of it.
    Whole(Manifest),
    /// A list without what may not.
    Part {
        /// That list.
        top: Manifest,
        /// What was left out, and why.
        left_out: String,
    },
    /// Nothing.
    Nothing {
        /// Why.
        reason: String,
    },
}

impl Client {
    /// Says whether a child of an index is an attestation, which nothing can run: by the platform that the index states, by
    /// its configuration, and by its layers, each of which is an in-toto statement.
    ///
    /// # Errors
    /// A failing registry, or one that serves other bytes.
    pub async fn is_attestation(
        &self,
        repository: &Repository,
        listed: &Descriptor,
        manifest: &Manifest,
    ) -> Result<bool, Error> {
        let Content::Image { config, layers } = &manifest.content else {
            return Ok(false);
        };
        if !manifest.is_shaped_as_attestation(listed) || !are_bounded(config, layers) {
            return Ok(false);
        }
        let platform = config_platform(&self.small_blob(repository, config).await?);
        if !platform.is_some_and(|platform| platform.is_unknown()) {
            return Ok(false);
        }
        for layer in layers {
            let statement = self.small_blob(repository, layer).await?;
            if let Some(fault) = Form::InToto.fault(&statement) {
                tracing::warn!(
                    image.repository = %repository, image.digest = %manifest.digest, layer = %layer.digest, fault,
                    "an index calls it an attestation, and it is none; it needs a scan"
                );
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns what may be attached to an image in a target: all of it, or those of a list that are what it says they are.
    ///
    /// # Errors
    /// A failing registry, or one that serves other bytes.
    pub async fn admissible(
        &self,
        repository: &Repository,
        tag: &Tag,
        digest: &Digest,
    ) -> Result<Admissible, Error> {
        let top = self.manifest(repository, &digest.into()).await?;
        if !tag.is_list() {
            let fault = self.attachment_fault(repository, &top).await?;
            return Ok(match fault {
                Some(reason) => Admissible::Nothing { reason },
                None => Admissible::Whole(top),
            });
        }
        let (subject, mut good, mut faults) = (tag.attached_to(), Vec::new(), Vec::new());
        let mut left = MAX_LIST_BYTES;
        for listed in top.children() {
            let reference = (&listed.digest).into();
            let checked = async {
                let referrer = self.manifest(repository, &reference).await?;
                let sizes = referrer.blobs().map(|blob| blob.size);
                let size_bytes = sizes.fold(0, u64::saturating_add);
                if referrer.subject() != subject {
                    return Ok(Err("it refers to something else".to_owned()));
                }
                if size_bytes > left {
                    return Ok(Err("the list has too much to be read".to_owned()));
                }
                left -= size_bytes;
                let fault = self.attachment_fault(repository, &referrer).await?;
                Ok::<_, Error>(fault.map_or(Ok(referrer), Err))
            };
            let checked = match checked.await {
                // One that cannot be read keeps no other out.
                Err(Error::Untrusted { reason, .. }) => Err(reason),
                Err(error) if error.is_not_found() => Err("it is not there".to_owned()),
                checked => checked?,
            };
            match checked {
                Ok(referrer) => good.push(referrer),
                Err(fault) => faults.push(format!("{}: {fault}", listed.digest)),
            }
        }
        let reason = faults.join("; ");
        if faults.is_empty() && !good.is_empty() {
            return Ok(Admissible::Whole(top));
        }
        Ok(match Manifest::listing(None, &good)? {
            Some(top) => Admissible::Part {
                top,
                left_out: reason,
            },
            None if reason.is_empty() => Admissible::Nothing {
                reason: "it lists nothing".to_owned(),
            },
            None => Admissible::Nothing { reason },
        })
    }

    /// Returns why a manifest is nothing that may be attached to an image; nothing if it is.
    ///
    /// # Errors
    /// A failing registry, or one that serves other bytes.
    pub async fn attachment_fault(
        &self,
        repository: &Repository,
        manifest: &Manifest,
    ) -> Result<Option<String>, Error> {
        let Content::Image { config, layers } = &manifest.content else {
            return Ok(Some("it is an index".to_owned()));
        };
        if let Some(fault) = manifest_fault(manifest, config, layers) {
            return Ok(Some(fault));
        }
        let bytes = self.small_blob(repository, config).await?;
        if let Some(fault) = config_fault(config, &bytes) {
            return Ok(Some(format!("configuration {}: {fault}", config.digest)));
        }
        for layer in layers {
            // It was looked for already.
            let Some(form) = form_of(&layer.media_type) else {
                continue;
            };
            let bytes = self.small_blob(repository, layer).await?;
            if let Some(fault) = form.fault(&bytes) {
                return Ok(Some(format!("layer {}: {fault}", layer.digest)));
            }
        }
        Ok(None)
    }

    /// Reads a blob whose size was found small enough.
    async fn small_blob(&self, repository: &Repository, blob: &Descriptor) -> Result<Bytes, Error> {
        let what = what(repository, &blob.digest);
        let limit = usize::try_from(blob.size).unwrap_or(usize::MAX);
        let answer = self.blob(repository, blob).await?;
        let bytes = limited(&what, answer, limit).await?;
        if bytes.len() != limit || digest_of(&bytes) != blob.digest {
            let reason = "the bytes do not have the digest and size that were asked for";
            return Err(Error::untrusted(what, reason));
        }
        Ok(bytes)
    }
}

impl Manifest {
    /// Says whether this may be an attestation by what is written of it; that it is one its blobs have to show.
    #[must_use]
    pub fn is_shaped_as_attestation(&self, listed: &Descriptor) -> bool {
        let Content::Image { config, layers } = &self.content else {
            return false;
        };
        let is_statement = |layer: &Descriptor| layer.media_type.starts_with(IN_TOTO);
        IMAGE_CONFIGS.contains(&config.media_type.as_str())
            && listed
                .platform
                .as_ref()
                .is_some_and(DescriptorPlatform::is_unknown)
            && !layers.is_empty()
            && layers.iter().all(is_statement)
    }
}

fn are_bounded(config: &Descriptor, layers: &[Descriptor]) -> bool {
    let sizes = layers.iter().map(|layer| layer.size);
    config.size <= MAX_CONFIG_BYTES
        && sizes.clone().all(|size| size <= MAX_BLOB_BYTES)
        && sizes.fold(0, u64::saturating_add) <= MAX_BYTES
}

/// Finds what is wrong with an attachment before any of its blobs is fetched.
fn manifest_fault(
    manifest: &Manifest,
    config: &Descriptor,
    layers: &[Descriptor],
) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Artifact {
        artifact_type: Option<String>,
    }
    let Ok(artifact) = serde_json::from_slice::<Artifact>(&manifest.raw) else {
        return Some("its `artifactType` is no text".to_owned());
    };
    let kinds = [artifact.artifact_type.as_deref(), Some(&config.media_type)];
    if kinds
        .into_iter()
        .flatten()
        .any(|kind| kind.starts_with(SOCI))
    {
        return Some(
            "it is an index of the SOCI snapshotter, which mounts what it says".to_owned(),
        );
    }
    if layers
        .iter()
        .chain([config])
        .any(|blob| !blob.urls.is_empty())
    {
        return Some("it has blobs that lie elsewhere".to_owned());
    }
    let unknown = |layer: &&Descriptor| form_of(&layer.media_type).is_none();
    if let Some(layer) = layers.iter().find(unknown) {
        let kind = layer.media_type.escape_default();
        return Some(format!(
            "layer {} is of the kind `{kind}`, which is none that is attached to images",
            layer.digest
        ));
    }
    (!are_bounded(config, layers)).then(|| {
        format!("its blobs are larger than {MAX_BLOB_BYTES} bytes each or {MAX_BYTES} together, or its configuration than {MAX_CONFIG_BYTES}")
    })
}

fn config_fault(config: &Descriptor, bytes: &[u8]) -> Option<String> {
    if let Some(name) = unpackable(bytes) {
        return Some(format!("it begins as {name}"));
    }
    let kind = config.media_type.as_str();
    if EMPTY_CONFIGS.contains(&kind) {
        return Form::Empty.fault(bytes);
    }
    if !IMAGE_CONFIGS.contains(&kind) {
        let kind = kind.escape_default();
        return Some(format!("`{kind}` is none of what is attached to images"));
    }
    match config_platform(bytes) {
        None => Some("it is no configuration, or can be read in two ways".to_owned()),
        Some(platform) if platform.is_unknown() || platform.is_empty() => None,
        Some(_) => Some("it names a platform, so this is an image".to_owned()),
    }
}

/// Returns the platform of an image's configuration, if that can be read in one way.
fn config_platform(bytes: &[u8]) -> Option<DescriptorPlatform> {
    strict::read(&strict::CONFIG, bytes).ok()?;
    serde_json::from_slice(bytes).ok()
}

/// Returns the form that a media type claims.
fn form_of(media_type: &str) -> Option<Form> {
    let kind = media_type.split(';').next().unwrap_or_default().trim();
    let known = KINDS.iter().find(|(known, _)| *known == kind);
    let is_statement =
        || kind.starts_with(IN_TOTO) && (kind.ends_with("+json") || kind.ends_with("+dsse"));
    known
        .map(|(_, form)| *form)
        .or_else(|| is_statement().then_some(Form::InToto))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

    fn descriptor(kind: &str, size: u64) -> Value {
        json!({ "mediaType": kind, "digest": format!("sha256:{}", "0".repeat(64)), "size": size })
    }

    fn manifest(config: &str, layers: &[(&str, u64)], more: &Value) -> Manifest {
        let layers: Vec<_> = layers
            .iter()
            .map(|(kind, size)| descriptor(kind, *size))
            .collect();
        let mut document =
            json!({ "schemaVersion": 2, "config": descriptor(config, 2), "layers": layers });
        let members = more.as_object().unwrap().clone();
        document.as_object_mut().unwrap().extend(members);
        Manifest::read("x", MANIFEST, document.to_string().into()).unwrap()
    }

    fn fault(manifest: &Manifest) -> Option<String> {
        let Content::Image { config, layers } = &manifest.content else {
            return None;
        };
        manifest_fault(manifest, config, layers)
    }

    #[test]
    fn an_attestation_is_shaped_by_its_platform_its_configuration_and_statements_alone() {
        let listed = |platform: Value| -> Descriptor {
            let mut listed = descriptor(MANIFEST, 2);
            listed["platform"] = platform;
            listed["annotations"] = json!({ "vnd.docker.reference.type": "attestation-manifest" });
            serde_json::from_value(listed).unwrap()
        };
        let unknown = listed(json!({ "os": "unknown", "architecture": "unknown" }));
        let statement = "application/vnd.in-toto+json";
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let [image, chart] = [IMAGE_CONFIGS[0], "application/vnd.cncf.helm.config.v1+json"];
        for (config, layers, expected) in [
            (image, vec![statement], true),
            (image, vec![statement, statement], true),
            (image, vec![layer], false),
            (image, vec![statement, layer], false),
            (image, vec![], false),
            (chart, vec![statement], false),
        ] {
            let layers: Vec<_> = layers.into_iter().map(|kind| (kind, 2)).collect();
            let manifest = manifest(config, &layers, &json!({}));
            assert_eq!(
                manifest.is_shaped_as_attestation(&unknown),
                expected,
                "{layers:?}"
            );
            for platform in [
                Value::Null,
                json!({ "os": "linux", "architecture": "amd64" }),
                json!({ "os": "unknown", "architecture": "amd64" }),
                json!({ "os": "Unknown", "architecture": "unknown" }),
            ] {
                assert!(!manifest.is_shaped_as_attestation(&listed(platform)));
            }
        }
    }

    #[test]
    fn what_is_of_no_known_kind_or_too_large_is_refused_before_anything_is_fetched() {
        let empty = EMPTY_CONFIGS[0];
        for (kind, _) in KINDS {
            assert_eq!(
                fault(&manifest(empty, &[(kind, 2)], &json!({}))),
                None,
                "{kind}"
            );
        }
        for kind in [
            "application/vnd.in-toto.provenance+dsse",
            "application/vnd.dev.sigstore.bundle+json;version=0.2",
        ] {
            assert_eq!(
                fault(&manifest(empty, &[(kind, 2)], &json!({}))),
                None,
                "{kind}"
            );
        }
        for kind in [
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.erofs.layer.v1",
            "application/octet-stream",
            "application/vnd.in-toto",
            "application/vnd.in-toto.layer.v1.tar+gzip",
            "application/json",
            "",
        ] {
            let told = fault(&manifest(empty, &[(empty, 2), (kind, 2)], &json!({})));
            assert!(told.unwrap().contains("none that is attached"), "{kind}");
        }
        let sbom = "application/spdx+json";
        assert_eq!(
            fault(&manifest(empty, &[(sbom, MAX_BLOB_BYTES)], &json!({}))),
            None
        );
        for layers in [
            &[(sbom, MAX_BLOB_BYTES + 1)][..],
            &[(sbom, MAX_BLOB_BYTES); 3],
            &[(sbom, u64::MAX); 2],
        ] {
            assert!(
                fault(&manifest(empty, layers, &json!({})))
                    .unwrap()
                    .contains("larger")
            );
        }
    }

    #[test]
    fn an_index_of_the_soci_snapshotter_is_refused_however_it_is_named() {
        let kind = "application/vnd.amazon.soci.index.v1+json";
        let empty = EMPTY_CONFIGS[0];
        let by_config = manifest(kind, &[(empty, 2)], &json!({}));
        let by_type = manifest(empty, &[(empty, 2)], &json!({ "artifactType": kind }));
        for manifest in [by_config, by_type] {
            assert!(fault(&manifest).unwrap().contains("SOCI"));
        }
        let strange = manifest(empty, &[(empty, 2)], &json!({ "artifactType": [kind] }));
        assert!(fault(&strange).is_some());
    }

    #[test]
    fn the_configuration_of_an_image_is_attached_to_none() {
        let config = |kind: &str| serde_json::from_value(descriptor(kind, 2)).unwrap();
        let image: Descriptor = config(IMAGE_CONFIGS[0]);
        for (text, is_fine) in [
            ("{}", true),
            (
                r#"{"architecture":"","os":"","rootfs":{"type":"layers","diff_ids":[]},"config":{}}"#,
                true,
            ),
            (r#"{"architecture":"unknown","os":"unknown"}"#, true),
            (r#"{"architecture":"amd64","os":"linux"}"#, false),
            (r#"{"architecture":"","os":"linux"}"#, false),
            (
                r#"{"os":"unknown","architecture":"unknown","OS":"linux"}"#,
                false,
            ),
            (
                r#"{"os":"unknown","os":"linux","architecture":"unknown"}"#,
                false,
            ),
            ("{} x", false),
            ("\u{1f}\u{8b}", false),
        ] {
            assert_eq!(
                config_fault(&image, text.as_bytes()).is_none(),
                is_fine,
                "{text}"
            );
        }
        for kind in EMPTY_CONFIGS {
            assert_eq!(config_fault(&config(kind), b"{}"), None, "{kind}");
            assert!(
                config_fault(&config(kind), b"{\"os\":\"linux\"}").is_some(),
                "{kind}"
            );
        }
        assert!(config_fault(&config("application/vnd.cncf.helm.config.v1+json"), b"{}").is_some());
    }
}
