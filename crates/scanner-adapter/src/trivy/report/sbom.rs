//! The bill of materials of a report, as CycloneDX.
//!
//! Trivy can convert its report too, but its start takes more processor time than the rest of a small scan. Components,
//! properties and dependencies are those that it writes, so that it can match them again. Findings are in the report
//! only, since they change with the database.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::trivy::report::package::{OS_PACKAGES, Package, WITHOUT_FILE};
use crate::trivy::report::{Metadata, Os, ReportError};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Report {
    #[serde(default)]
    created_at: String,
    #[serde(default)]
    artifact_name: String,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    results: Option<Vec<ResultBlock>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ResultBlock {
    #[serde(default)]
    target: String,
    #[serde(default)]
    class: String,
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    packages: Option<Vec<Package>>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Application,
    Library,
    OperatingSystem,
    Container,
}

#[derive(Serialize)]
struct Component {
    #[serde(rename = "bom-ref")]
    reference: String,
    r#type: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    supplier: Option<Value>,
    #[serde(skip_serializing_if = "str::is_empty")]
    group: String,
    name: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    licenses: Vec<Value>,
    #[serde(skip_serializing_if = "str::is_empty")]
    purl: String,
    properties: Vec<Value>,
}

/// A bill of materials that is being written.
#[derive(Default)]
struct Bill {
    components: Vec<Component>,
    /// The dependencies of each component, by reference.
    dependencies: BTreeMap<String, BTreeSet<String>>,
    references: HashSet<String>,
}

/// Makes the bill of materials of a report; the same report makes the same one.
pub(crate) fn bill_of_materials(
    report: &[u8],
    trivy_version: &str,
) -> Result<Vec<u8>, ReportError> {
    let hash: [u8; 32] = Sha256::digest(report).into();
    let report: Report = serde_json::from_slice(report)?;
    let mut serial = [0; 16];
    serial.copy_from_slice(hash.split_at(16).0);
    let serial = uuid::Builder::from_random_bytes(serial).into_uuid();
    let mut bill = Bill::default();
    let image = Component {
        properties: properties(&image_properties(&report.metadata)),
        ..component(
            bill.reference(&report.metadata.image_id),
            Kind::Container,
            report.artifact_name,
        )
    };
    let root = image.reference.clone();
    bill.dependencies.insert(root.clone(), BTreeSet::new());
    for block in report.results.into_iter().flatten() {
        bill.add(&root, report.metadata.os.as_ref(), block);
    }
    bill.components
        .sort_by(|one, other| one.reference.cmp(&other.reference));
    let tool = |group: &str, name: &str, version: &str| json!({ "type": "application", "group": group, "name": name, "version": version });
    let dependencies = bill.dependencies.iter();
    let dependencies: Vec<Value> = dependencies
        .map(|(reference, all)| json!({ "ref": reference, "dependsOn": all }))
        .collect();
    let document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{serial}"),
        "version": 1,
        "metadata": {
            "timestamp": report.created_at,
            "tools": { "components": [
                tool("aquasecurity", "trivy", trivy_version),
                tool("sluice", "sluice-scanner-adapter", env!("CARGO_PKG_VERSION")),
            ] },
            "component": image,
        },
        "components": bill.components,
        "dependencies": dependencies,
    });
    Ok(serde_json::to_vec(&document)?)
}

impl Bill {
    /// Adds the packages of one result.
    fn add(&mut self, root: &str, os: Option<&Os>, block: ResultBlock) {
        let packages = block.packages.unwrap_or_default();
        if packages.is_empty() && block.class != OS_PACKAGES {
            return;
        }
        let kind = [
            ("Class", block.class.as_str()),
            ("Type", block.r#type.as_str()),
        ];
        let parent = match os.filter(|_| block.class == OS_PACKAGES) {
            Some(os) => {
                let reference = self.reference(&format!("os:{}@{}", os.family, os.name));
                self.components.push(Component {
                    version: os.name.clone(),
                    properties: properties(&kind),
                    ..component(reference.clone(), Kind::OperatingSystem, os.family.clone())
                });
                reference
            }
            None if WITHOUT_FILE.contains(&block.r#type.as_str()) => root.to_owned(),
            None => {
                let reference = self.reference(&format!("file:{}", block.target));
                self.components.push(Component {
                    properties: properties(&kind),
                    ..component(reference.clone(), Kind::Application, block.target)
                });
                reference
            }
        };
        if parent != root {
            self.add_dependency(root, &parent);
        }
        let references: Vec<String> = packages
            .iter()
            .map(|package| self.reference(&package.identifier.purl))
            .collect();
        let ids: BTreeMap<&str, &String> = packages
            .iter()
            .zip(&references)
            .filter(|(package, _)| !package.id.is_empty())
            .map(|(package, reference)| (package.id.as_str(), reference))
            .collect();
        let mut reachable = BTreeSet::new();
        for (package, reference) in packages.iter().zip(&references) {
            self.dependencies.entry(reference.clone()).or_default();
            for id in package.depends_on.iter().flatten() {
                if let Some(dependency) = ids.get(id.as_str()) {
                    self.add_dependency(reference, dependency);
                    reachable.insert(*dependency);
                }
            }
        }
        // The parent depends on those that no other package depends on.
        for reference in references.iter().filter(|one| !reachable.contains(one)) {
            self.add_dependency(&parent, reference);
        }
        for (package, reference) in packages.iter().zip(&references) {
            let library = library(package, reference.clone(), &block.r#type);
            self.components.push(library);
        }
    }

    fn add_dependency(&mut self, reference: &str, dependency: &str) {
        let all = self.dependencies.entry(reference.to_owned()).or_default();
        all.insert(dependency.to_owned());
    }

    /// Returns a reference that no other component has.
    fn reference(&mut self, wanted: &str) -> String {
        let mut reference = wanted.to_owned();
        let mut number = 1_u64;
        while reference.is_empty() || !self.references.insert(reference.clone()) {
            number += 1;
            reference = format!("{wanted}#{number}");
        }
        reference
    }
}

fn component(reference: String, kind: Kind, name: String) -> Component {
    Component {
        reference,
        r#type: kind,
        supplier: None,
        group: String::new(),
        name,
        version: String::new(),
        licenses: Vec::new(),
        purl: String::new(),
        properties: Vec::new(),
    }
}

fn library(package: &Package, reference: String, kind: &str) -> Component {
    let purl = &package.identifier.purl;
    // The scope of npm and the group of Maven are separate from the name.
    let parts = if purl.starts_with("pkg:npm/") {
        package.name.split_once('/')
    } else if purl.starts_with("pkg:maven/") {
        package.name.split_once(':')
    } else {
        None
    };
    let (group, name) = parts.unwrap_or(("", &package.name));
    let epoch = match package.src_epoch {
        0 => String::new(),
        epoch => epoch.to_string(),
    };
    let licenses = package.licenses.iter().flatten();
    let supplier = Some(&package.maintainer).filter(|name| !name.is_empty());
    Component {
        supplier: supplier.map(|name| json!({ "name": name })),
        group: group.to_owned(),
        version: package.full_version(),
        licenses: licenses
            .map(|name| json!({ "license": { "name": name } }))
            .collect(),
        purl: purl.clone(),
        properties: properties(&[
            ("FilePath", &package.file_path),
            ("LayerDiffID", &package.layer.diff_id),
            ("LayerDigest", &package.layer.digest),
            ("Modularitylabel", &package.modularity_label),
            ("PkgID", &package.id),
            ("PkgType", kind),
            ("SrcEpoch", &epoch),
            ("SrcName", &package.src_name),
            ("SrcRelease", &package.src_release),
            ("SrcVersion", &package.src_version),
        ]),
        ..component(reference, Kind::Library, name.to_owned())
    }
}

fn image_properties(metadata: &Metadata) -> Vec<(&str, &str)> {
    let diff_ids = metadata.diff_ids.iter().flatten();
    let mut properties: Vec<(&str, &str)> = diff_ids.map(|id| ("DiffID", id.as_str())).collect();
    properties.extend([
        ("ImageID", metadata.image_id.as_str()),
        ("SchemaVersion", "2"),
    ]);
    properties
}

/// Writes properties under the names that Trivy gives them, without those that are empty.
fn properties(all: &[(&str, &str)]) -> Vec<Value> {
    let set = all.iter().filter(|(_, value)| !value.is_empty());
    set.map(|(name, value)| json!({ "name": format!("aquasecurity:trivy:{name}"), "value": value }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_is_listed_once_with_its_dependencies() {
        let package = |id: &str, needs: &[&str]| {
            json!({
                "ID": id, "Name": id, "Version": "1", "DependsOn": needs,
                "Identifier": { "PURL": format!("pkg:cargo/{id}@1") },
            })
        };
        let report = json!({
            "SchemaVersion": 2, "CreatedAt": "2026-01-01T00:00:00Z", "ArtifactName": "app",
            "Metadata": { "ImageID": "sha256:1" },
            "Results": [
                { "Target": "a/Cargo.lock", "Class": "lang-pkgs", "Type": "cargo", "Packages": [package("a", &["b"]), package("b", &[])] },
                { "Target": "b/Cargo.lock", "Class": "lang-pkgs", "Type": "cargo", "Packages": [package("b", &["nowhere"])] },
                { "Target": "c", "Class": "lang-pkgs", "Type": "cargo" },
            ],
        });
        let report = report.to_string();
        let bytes = bill_of_materials(report.as_bytes(), "0.59.1").unwrap();
        assert_eq!(
            bytes,
            bill_of_materials(report.as_bytes(), "0.59.1").unwrap()
        );
        let bill: Value = serde_json::from_slice(&bytes).unwrap();
        let components = bill["components"].as_array().unwrap().iter();
        let references: Vec<&str> = components
            .map(|component| component["bom-ref"].as_str().unwrap())
            .collect();
        assert_eq!(
            references,
            [
                "file:a/Cargo.lock",
                "file:b/Cargo.lock",
                "pkg:cargo/a@1",
                "pkg:cargo/b@1",
                "pkg:cargo/b@1#2"
            ]
        );
        let expected = json!([
            { "ref": "file:a/Cargo.lock", "dependsOn": ["pkg:cargo/a@1"] },
            { "ref": "file:b/Cargo.lock", "dependsOn": ["pkg:cargo/b@1#2"] },
            { "ref": "pkg:cargo/a@1", "dependsOn": ["pkg:cargo/b@1"] },
            { "ref": "pkg:cargo/b@1", "dependsOn": [] },
            { "ref": "pkg:cargo/b@1#2", "dependsOn": [] },
            { "ref": "sha256:1", "dependsOn": ["file:a/Cargo.lock", "file:b/Cargo.lock"] },
        ]);
        assert_eq!(bill["dependencies"], expected);
    }

    #[test]
    fn a_malformed_report_makes_no_bill() {
        for report in ["", "7", r#"{"Results": 1}"#] {
            assert!(
                bill_of_materials(report.as_bytes(), "1").is_err(),
                "{report}"
            );
        }
    }
}
