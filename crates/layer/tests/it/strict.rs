//! The strict reader, called with a layer as a client gets it.

use std::collections::BTreeMap;

use sluice_layer::{
    Error, ImageContents, LayerDescriptor, LayerRefusal, LayerSummary, LayerType, Limits, Rule,
    check_layers, read_layer,
};

use crate::build::sha256;
use crate::clients::Layer;

pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const DOCKER_TAR: &str = "application/vnd.docker.image.rootfs.diff.tar";
pub(crate) const DOCKER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// A layer whose diff id is that of `tar`.
pub(crate) fn layer(media_type: &'static str, blob: Vec<u8>, tar: &[u8]) -> Layer {
    Layer {
        media_type,
        blob,
        diff_id: sha256(tar),
    }
}

/// A layer that is a bare tar.
pub(crate) fn bare(tar: Vec<u8>) -> Layer {
    let diff_id = sha256(&tar);
    Layer {
        media_type: TAR,
        blob: tar,
        diff_id,
    }
}

pub(crate) fn descriptor(layer: &Layer) -> LayerDescriptor {
    LayerDescriptor {
        layer_type: LayerType::parse(layer.media_type).unwrap(),
        digest: sha256(&layer.blob).parse().unwrap(),
        size_bytes: layer.blob.len() as u64,
        diff_id: layer.diff_id.parse().unwrap(),
        annotations: BTreeMap::new(),
    }
}

/// Reads a layer, and returns its summary with the tar that was written.
pub(crate) fn read(layer: &Layer) -> Result<(LayerSummary, Vec<u8>), Error> {
    let mut tar = Vec::new();
    let summary = read_layer(
        layer.blob.as_slice(),
        &descriptor(layer),
        &Limits::default(),
        &mut tar,
    )?;
    Ok((summary, tar))
}

/// Reads all layers, as the adapter does.
pub(crate) fn read_image(layers: &[Layer]) -> Result<(ImageContents, Vec<Vec<u8>>), Error> {
    let mut summaries = Vec::new();
    let mut tars = Vec::new();
    for layer in layers {
        let (summary, tar) = read(layer)?;
        // A summary is stored between two images that have the layer.
        let stored = serde_json::to_string(&summary).unwrap();
        let restored: LayerSummary = serde_json::from_str(&stored).unwrap();
        assert_eq!(restored, summary);
        summaries.push(restored);
        tars.push(tar);
    }
    Ok((check_layers(&summaries)?, tars))
}

/// The rule that an image breaks, or nothing if it is accepted.
pub(crate) fn broken_rule(layers: &[Layer]) -> Option<Rule> {
    match read_image(layers) {
        Ok(_) => None,
        Err(Error::Refused(LayerRefusal { rule, .. })) => Some(rule),
        Err(error) => panic!("{error}"),
    }
}
