//! The findings and packages of a report, in the terms that every scanner has.

use std::cmp::Reverse;

use sluice_domain::{Finding, ManifestFindings, Package};

use crate::trivy::report::package::{OS_PACKAGES, WITHOUT_FILE};
use crate::trivy::report::{RatedVulnerability, Report, ResultBlock};

impl Report {
    /// Returns every finding once, the worst first, and every package.
    pub(crate) fn manifest_findings(&self) -> ManifestFindings {
        let mut findings: Vec<Finding> = self.findings().values().map(finding).collect();
        findings.sort_by(|one, other| {
            let order = |finding: &Finding| Reverse(finding.severity);
            order(one)
                .cmp(&order(other))
                .then_with(|| one.identity().cmp(&other.identity()))
        });
        let blocks = self.results().filter(|block| block.lists_packages());
        let mut packages: Vec<Package> = blocks.flat_map(packages).collect();
        packages.sort();
        ManifestFindings {
            findings,
            packages,
            ..ManifestFindings::default()
        }
    }
}

fn finding(rated: &RatedVulnerability<'_>) -> Finding {
    let found = rated.vulnerability;
    Finding {
        id: found.id.clone(),
        package: found.pkg_name.clone(),
        installed_version: found.installed_version.clone(),
        fixed_version: rated.fixed_version.to_owned(),
        severity: rated.severity,
        severity_source: found.severity_source.clone(),
        score: rated.score,
        kind: rated.block.r#type.clone(),
        purl: found.pkg_identifier.purl.clone(),
        path: rated.block.path(&found.pkg_path),
        layer: found.layer.diff_id.clone(),
        title: found.title.clone(),
        url: found.primary_url.clone(),
    }
}

fn packages(block: &ResultBlock) -> impl Iterator<Item = Package> {
    block.packages.iter().flatten().map(|package| Package {
        kind: block.r#type.clone(),
        name: package.name.clone(),
        version: package.full_version(),
        purl: package.identifier.purl.clone(),
        path: block.path(&package.file_path),
        layer: package.layer.diff_id.clone(),
        licenses: package.licenses.clone().unwrap_or_default(),
    })
}

impl ResultBlock {
    /// Returns the file of a package: its own, else the one that the block is on, if it is on one.
    fn path(&self, own: &str) -> String {
        let has_file = self.class != OS_PACKAGES && !WITHOUT_FILE.contains(&self.r#type.as_str());
        let path = if own.is_empty() && has_file {
            &self.target
        } else {
            own
        };
        path.to_owned()
    }
}
