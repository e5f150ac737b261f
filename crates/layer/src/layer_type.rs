//! The media types of layers that are read.

use serde::{Deserialize, Serialize};

/// A media type of a layer that every client reads in the same way.
///
/// The list is rule 5: other types are skipped by some clients, sniffed or decrypted by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LayerType {
    /// `application/vnd.oci.image.layer.v1.tar`
    #[serde(rename = "application/vnd.oci.image.layer.v1.tar")]
    OciTar,
    /// `application/vnd.oci.image.layer.v1.tar+gzip`
    #[serde(rename = "application/vnd.oci.image.layer.v1.tar+gzip")]
    OciTarGzip,
    /// `application/vnd.oci.image.layer.v1.tar+zstd`
    #[serde(rename = "application/vnd.oci.image.layer.v1.tar+zstd")]
    OciTarZstd,
    /// `application/vnd.oci.image.layer.nondistributable.v1.tar`
    #[serde(rename = "application/vnd.oci.image.layer.nondistributable.v1.tar")]
    OciNondistributableTar,
    /// `application/vnd.oci.image.layer.nondistributable.v1.tar+gzip`
    #[serde(rename = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")]
    OciNondistributableTarGzip,
    /// `application/vnd.oci.image.layer.nondistributable.v1.tar+zstd`
    #[serde(rename = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd")]
    OciNondistributableTarZstd,
    /// `application/vnd.docker.image.rootfs.diff.tar`
    #[serde(rename = "application/vnd.docker.image.rootfs.diff.tar")]
    DockerTar,
    /// `application/vnd.docker.image.rootfs.diff.tar.gzip`
    #[serde(rename = "application/vnd.docker.image.rootfs.diff.tar.gzip")]
    DockerTarGzip,
    /// `application/vnd.docker.image.rootfs.diff.tar.zstd`
    #[serde(rename = "application/vnd.docker.image.rootfs.diff.tar.zstd")]
    DockerTarZstd,
    /// `application/vnd.docker.image.rootfs.foreign.diff.tar.gzip`
    #[serde(rename = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")]
    DockerForeignTarGzip,
}

impl LayerType {
    /// All types that are read.
    pub const ALL: [Self; 10] = [
        Self::OciTar,
        Self::OciTarGzip,
        Self::OciTarZstd,
        Self::OciNondistributableTar,
        Self::OciNondistributableTarGzip,
        Self::OciNondistributableTarZstd,
        Self::DockerTar,
        Self::DockerTarGzip,
        Self::DockerTarZstd,
        Self::DockerForeignTarGzip,
    ];

    /// Reads a media type, compared byte for byte: no parameters, no other case.
    #[must_use]
    pub fn parse(media_type: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|layer_type| layer_type.as_str() == media_type)
    }

    /// Returns the media type.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OciTar => "application/vnd.oci.image.layer.v1.tar",
            Self::OciTarGzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::OciTarZstd => "application/vnd.oci.image.layer.v1.tar+zstd",
            Self::OciNondistributableTar => {
                "application/vnd.oci.image.layer.nondistributable.v1.tar"
            }
            Self::OciNondistributableTarGzip => {
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            }
            Self::OciNondistributableTarZstd => {
                "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
            }
            Self::DockerTar => "application/vnd.docker.image.rootfs.diff.tar",
            Self::DockerTarGzip => "application/vnd.docker.image.rootfs.diff.tar.gzip",
            Self::DockerTarZstd => "application/vnd.docker.image.rootfs.diff.tar.zstd",
            Self::DockerForeignTarGzip => {
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
            }
        }
    }

    /// Returns whether containerd takes the blob as a tar without looking at its first bytes.
    #[must_use]
    pub(crate) fn is_never_decompressed(self) -> bool {
        matches!(self, Self::OciTar | Self::OciNondistributableTar)
    }

    /// Returns the compression that the type names.
    #[must_use]
    pub(crate) fn declared(self) -> Compression {
        match self {
            Self::OciTar | Self::OciNondistributableTar | Self::DockerTar => Compression::None,
            Self::OciTarGzip
            | Self::OciNondistributableTarGzip
            | Self::DockerTarGzip
            | Self::DockerForeignTarGzip => Compression::Gzip,
            Self::OciTarZstd | Self::OciNondistributableTarZstd | Self::DockerTarZstd => {
                Compression::Zstd
            }
        }
    }
}

/// How a blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// A bare tar.
    None,
    /// gzip, RFC 1952.
    Gzip,
    /// Zstandard, RFC 8878.
    Zstd,
}

impl Compression {
    /// Returns the name for messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_types_are_compared_byte_for_byte() {
        for layer_type in LayerType::ALL {
            assert_eq!(LayerType::parse(layer_type.as_str()), Some(layer_type));
            let json = serde_json::to_string(&layer_type).unwrap();
            assert_eq!(json, format!("\"{}\"", layer_type.as_str()));
            for other in [
                layer_type.as_str().to_uppercase(),
                format!("{}; x=y", layer_type.as_str()),
                format!("{}+encrypted", layer_type.as_str()),
                format!(" {}", layer_type.as_str()),
            ] {
                assert_eq!(LayerType::parse(&other), None, "{other}");
            }
        }
        for other in [
            "",
            "application/octet-stream",
            "application/vnd.oci.image.layer.v1.tar+bzip2",
            "application/vnd.oci.image.layer.v1.tar+gzip+foo",
            "application/vnd.in-toto+json",
        ] {
            assert_eq!(LayerType::parse(other), None, "{other}");
        }
    }
}
