//! The formats of findings.

use clap::ValueEnum;

use crate::output::Format;

/// The format of findings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum FindingsFormat {
    /// A table.
    #[default]
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// Comma-separated values, with a header.
    Csv,
    /// SARIF 2.1.0, of an image.
    Sarif,
    /// CycloneDX 1.6: the bill of materials with the vulnerabilities, of one platform of an image.
    Cyclonedx,
}

impl FindingsFormat {
    /// Returns the format of all commands that this one is, if it is one.
    pub(super) const fn general(self) -> Option<Format> {
        match self {
            Self::Table => Some(Format::Table),
            Self::Json => Some(Format::Json),
            Self::Yaml => Some(Format::Yaml),
            Self::Csv | Self::Sarif | Self::Cyclonedx => None,
        }
    }
}
