//! A package as Trivy's report lists it.

use serde::Deserialize;

/// The class of results on packages of the operating system.
pub(crate) const OS_PACKAGES: &str = "os-pkgs";
/// The types of results whose target is no file of the image; their packages belong to the image itself.
pub(crate) const WITHOUT_FILE: [&str; 5] =
    ["node-pkg", "python-pkg", "gemspec", "jar", "conda-pkg"];

/// A package; absent fields are empty.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Package {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) identifier: Identifier,
    pub(crate) version: String,
    pub(crate) release: String,
    pub(crate) epoch: u64,
    pub(crate) src_name: String,
    pub(crate) src_version: String,
    pub(crate) src_release: String,
    pub(crate) src_epoch: u64,
    #[serde(rename = "Modularitylabel")]
    pub(crate) modularity_label: String,
    pub(crate) licenses: Option<Vec<String>>,
    pub(crate) maintainer: String,
    pub(crate) depends_on: Option<Vec<String>>,
    pub(crate) layer: Layer,
    pub(crate) file_path: String,
}

/// What identifies a package everywhere.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Identifier {
    #[serde(rename = "PURL")]
    pub(crate) purl: String,
}

/// The layer that brought a package.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Layer {
    #[serde(rename = "Digest")]
    pub(crate) digest: String,
    #[serde(rename = "DiffID")]
    pub(crate) diff_id: String,
}

impl Package {
    /// Writes the version as package managers do: `epoch:version-release`.
    pub(crate) fn full_version(&self) -> String {
        let mut version = self.version.clone();
        if !self.release.is_empty() {
            version = format!("{version}-{}", self.release);
        }
        match self.epoch {
            0 => version,
            epoch => format!("{epoch}:{version}"),
        }
    }
}
