//! The rules for attachments, which are promoted without a scan: signatures, attestations and SBOMs.
//!
//! Media types and annotations prove nothing, since anybody can write them on a manifest that clients run. So every blob
//! is fetched by its digest, within limits, and must have one of the forms below to its end; none of them can be unpacked
//! or mounted.

pub(crate) mod form;
mod magic;

use serde::Deserialize;

use crate::content::manifest::descriptor::{Descriptor, DescriptorPlatform};
use crate::content::manifest::{Content, Manifest};
use crate::content::strict_json;

use self::form::Form;
use self::magic::detect_unpackable;

/// The largest statement, signature or bill of materials.
const MAX_BLOB_BYTES: u64 = 32 << 20;
/// The most bytes of all blobs of one manifest.
const MAX_BYTES: u64 = 64 << 20;
/// The largest configuration.
const MAX_CONFIG_BYTES: u64 = 64 << 10;
/// The prefix of the media types of in-toto statements (in-toto attestation framework, "Media types").
const IN_TOTO: &str = "application/vnd.in-toto";
/// The prefix of the SOCI snapshotter's indexes, by which it mounts other files than the layers have.
const SOCI: &str = "application/vnd.amazon.soci.";

/// The media types of image configurations; cosign uses them for attachments too, without a platform.
const IMAGE_CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
/// The media types of configurations that contain the empty object only.
const EMPTY_CONFIGS: [&str; 3] = [
    // OCI image specification 1.1, "Guidance for an Empty Descriptor".
    "application/vnd.oci.empty.v1+json",
    // Notary Project, signature specification, "Storage".
    "application/vnd.cncf.notary.signature",
    // ORAS, where no other is named.
    "application/vnd.unknown.config.v1+json",
];
/// The media types of attachments, without parameters, and the form that each claims.
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

impl Manifest {
    /// Returns whether descriptor, configuration and layers have the media types of an attestation; the blobs have to
    /// prove it.
    #[must_use]
    pub fn has_attestation_types(&self, listed: &Descriptor) -> bool {
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

/// Returns whether the blobs are within the limits.
pub(crate) fn are_bounded(config: &Descriptor, layers: &[Descriptor]) -> bool {
    let sizes = layers.iter().map(|layer| layer.size);
    config.size <= MAX_CONFIG_BYTES
        && sizes.clone().all(|size| size <= MAX_BLOB_BYTES)
        && sizes.fold(0, u64::saturating_add) <= MAX_BYTES
}

/// Returns the fault of an attachment's manifest, before any of its blobs is fetched.
pub(crate) fn manifest_fault(
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
        return Some("it has blobs at other URLs".to_owned());
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

/// Returns the fault of an attachment's configuration.
pub(crate) fn config_fault(config: &Descriptor, bytes: &[u8]) -> Option<String> {
    if let Some(name) = detect_unpackable(bytes) {
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

/// Returns the platform of an image's configuration, if that can be read in one way only.
pub(crate) fn config_platform(bytes: &[u8]) -> Option<DescriptorPlatform> {
    strict_json::check(&strict_json::CONFIG, bytes).ok()?;
    serde_json::from_slice(bytes).ok()
}

/// Returns the form that a media type claims.
pub(crate) fn form_of(media_type: &str) -> Option<Form> {
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
        Manifest::parse("x", MANIFEST, document.to_string().into()).unwrap()
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
                manifest.has_attestation_types(&unknown),
                expected,
                "{layers:?}"
            );
            for platform in [
                Value::Null,
                json!({ "os": "linux", "architecture": "amd64" }),
                json!({ "os": "unknown", "architecture": "amd64" }),
                json!({ "os": "Unknown", "architecture": "unknown" }),
            ] {
                assert!(!manifest.has_attestation_types(&listed(platform)));
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
            let fault = fault(&manifest(empty, &[(empty, 2), (kind, 2)], &json!({})));
            assert!(fault.unwrap().contains("none that is attached"), "{kind}");
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
