//! The manifest and the configuration of an image, read from bytes whose digests were checked: its layers, and what each
//! layer must unpack to. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use sluice_domain::Digest;
use sluice_layer::{LayerDescriptor, LayerType, Note, alternative_file_lists};
use sluice_registry::{Content, Descriptor, ImageConfig, Manifest};

/// The media types of the configuration of an image. Anything else is no image, and a scanner would find it clean.
const CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];
/// The most layers that a client accepts: Docker accepts 125, ECR 127.
const MAX_LAYERS: usize = 127;
/// The largest configuration that clients accept.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// The fields of a configuration that the scanner gets. Without the history it cannot be made to skip a layer.
const SCANNED_FIELDS: [&str; 4] = ["architecture", "os", "os.version", "variant"];

/// The documents of an image that have exactly one reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImageDocuments {
    /// The layers in their order.
    pub(crate) layers: Vec<LayerDescriptor>,
    /// The configuration that the scanner gets.
    pub(crate) config: String,
}

/// Returns the configuration and the layers of a manifest.
///
/// # Errors
/// The rule that the manifest breaks.
pub(crate) fn config_and_layers(
    manifest: &Manifest,
) -> Result<(&Descriptor, &[Descriptor]), String> {
    let Content::Image { config, layers } = &manifest.content else {
        return Err("an index inside an index is not scanned".to_owned());
    };
    if !CONFIGS.contains(&config.media_type.as_str()) {
        return Err(format!(
            "its configuration is `{}`, so it is no image",
            config.media_type.escape_default()
        ));
    }
    check_descriptor("the configuration", config)?;
    if config.size > MAX_CONFIG_BYTES {
        return Err(format!(
            "not scanned: limit: its configuration has more than {MAX_CONFIG_BYTES} bytes"
        ));
    }
    if layers.is_empty() || layers.len() > MAX_LAYERS {
        return Err(format!(
            "it has {} layers, and clients accept 1 to {MAX_LAYERS}",
            layers.len()
        ));
    }
    for (number, layer) in layers.iter().enumerate() {
        let name = format!("layer {number}");
        check_descriptor(&name, layer)?;
        if LayerType::parse(&layer.media_type).is_none() {
            return Err(format!(
                "{name} is of the type `{}`, which not all clients unpack (rule 5)",
                layer.media_type.escape_default()
            ));
        }
        check_views(&name, layer.annotations.as_ref())?;
    }
    let annotations = annotations(manifest);
    check_views("the manifest", annotations.as_ref())?;
    Ok((config, layers))
}

impl ImageDocuments {
    /// Reads the configuration, and joins each layer with its diff id.
    ///
    /// # Errors
    /// The rule that the configuration breaks.
    pub(crate) fn read(raw: &[u8], layers: &[Descriptor]) -> Result<Self, String> {
        let config = ImageConfig::parse("the configuration", raw)
            .map_err(|error| ambiguity_reason("the configuration", error))?;
        let missing = || "the configuration lists no `rootfs` (rule 7)".to_owned();
        let rootfs = config.rootfs.ok_or_else(missing)?;
        if rootfs.r#type != "layers" {
            return Err(format!(
                "the configuration's `rootfs` is of the type `{}`, not `layers` (rule 7)",
                rootfs.r#type.escape_default()
            ));
        }
        if rootfs.diff_ids.len() != layers.len() {
            return Err(format!(
                "the manifest has {} layers and the configuration {} diff ids (rule 7)",
                layers.len(),
                rootfs.diff_ids.len()
            ));
        }
        let mut described = Vec::new();
        for (number, (layer, diff_id)) in layers.iter().zip(&rootfs.diff_ids).enumerate() {
            let diff_id: Digest = diff_id.parse().map_err(|_| {
                format!("the diff id of layer {number} is no sha256 digest (rule 7)")
            })?;
            let layer_type = LayerType::parse(&layer.media_type)
                .ok_or_else(|| format!("layer {number} is of an unknown type (rule 5)"))?;
            described.push(LayerDescriptor {
                layer_type,
                digest: layer.digest.clone(),
                size_bytes: layer.size,
                diff_id,
                annotations: BTreeMap::new(),
            });
        }
        Ok(Self {
            config: scanned_config(raw, &described),
            layers: described,
        })
    }
}

/// Returns the reason that a document has not exactly one reading.
pub(crate) fn ambiguity_reason(name: &str, error: sluice_registry::Error) -> String {
    let reason = match error {
        sluice_registry::Error::Untrusted { reason, .. } => reason,
        other => other.to_string(),
    };
    format!("{name} has not exactly one reading: {reason} (rule 2)")
}

/// Checks the size of a configuration whose digest is right.
///
/// # Errors
/// The rule that the configuration breaks.
pub(crate) fn check_size(config: &Descriptor, raw: &[u8]) -> Result<(), String> {
    if u64::try_from(raw.len()) == Ok(config.size) {
        return Ok(());
    }
    Err(format!(
        "the configuration has {} bytes, and the manifest says {} (rule 6)",
        raw.len(),
        config.size
    ))
}

/// Makes the configuration that the scanner gets, without anything that could influence it.
fn scanned_config(raw: &[u8], layers: &[LayerDescriptor]) -> String {
    let whole: BTreeMap<String, Value> = serde_json::from_slice(raw).unwrap_or_default();
    let mut kept: BTreeMap<String, Value> = whole
        .into_iter()
        .filter(|(key, value)| SCANNED_FIELDS.contains(&key.as_str()) && value.is_string())
        .collect();
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
    kept.insert("rootfs".to_owned(), rootfs);
    json!(kept).to_string()
}

fn check_descriptor(name: &str, descriptor: &Descriptor) -> Result<(), String> {
    if !descriptor.urls.is_empty() {
        return Err(format!(
            "{name} lies elsewhere (`urls`), and some clients fetch it there (rule 6)"
        ));
    }
    if !descriptor.has_valid_data() {
        return Err(format!(
            "the `data` of {name} is not what its digest says (rule 6)"
        ));
    }
    if descriptor.size == 0 {
        return Err(format!(
            "{name} is empty, which some clients refuse (rule 6)"
        ));
    }
    Ok(())
}

fn check_views(name: &str, annotations: Option<&BTreeMap<String, String>>) -> Result<(), String> {
    for note in annotations.map(alternative_file_lists).unwrap_or_default() {
        if let Note::SecondView { annotation } = note {
            return Err(format!(
                "{name} has the annotation `{}`, by which some clients mount other files than those of the layer; they \
                 are not verified (rule 17)",
                annotation.escape_default()
            ));
        }
    }
    Ok(())
}

fn annotations(manifest: &Manifest) -> Option<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Annotated {
        annotations: Option<BTreeMap<String, String>>,
    }
    let read: Annotated = serde_json::from_slice(&manifest.raw).ok()?;
    read.annotations
}

#[cfg(test)]
mod tests;
