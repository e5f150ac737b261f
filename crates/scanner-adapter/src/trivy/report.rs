//! A report of Trivy: which image it is on, what was recognised, and how many findings there are.
//!
//! A report that may be on another image is an error, never a clean result.

use std::collections::BTreeMap;

use serde::Deserialize;
use sluice_domain::{Severity, SeverityCounts};
use thiserror::Error;

use crate::error::{Error, Remedy, ScannerError};
use crate::scanner::{DtrCounts, Summary};
use crate::trivy::report::package::{Identifier, Layer, OS_PACKAGES, Package};

pub(crate) mod cross_check;
mod findings;
pub(crate) mod package;
pub(crate) mod sbom;

/// The only version of the schema that is supported.
const SCHEMA: u32 = 2;

/// Why a report cannot be used.
#[derive(Debug, Error)]
pub(crate) enum ReportError {
    #[error("the report is no JSON of the expected form")]
    Malformed(#[from] serde_json::Error),
    #[error("the report has schema version {0}, only 2 is understood; use a Trivy that writes it")]
    Schema(u32),
    #[error("the report is about `{found}`, not about `{wanted}`")]
    OtherImage { wanted: String, found: String },
    #[error("the report does not say which image it is about")]
    NoMetadata,
    #[error("the report is not about the layers that were verified")]
    OtherLayers,
}

/// A report that was cut off may be complete after a retry; the number of attempts is the limit.
impl From<ReportError> for Error {
    fn from(error: ReportError) -> Self {
        ScannerError::new(Remedy::Retry(None), error).into()
    }
}

/// Returns the number of findings of a report on the image with a configuration and layers.
#[doc(hidden)]
#[must_use]
pub fn findings_of(report: &[u8], config_digest: &str, diff_ids: &[&str]) -> Option<u64> {
    let report = Report::read(report).ok()?;
    let counts = report.summary_of(config_digest, diff_ids).ok()?.counts;
    let SeverityCounts {
        critical,
        high,
        medium,
        low,
        unknown,
    } = counts;
    [critical, high, medium, low, unknown]
        .into_iter()
        .try_fold(0, u64::checked_add)
}

/// The fields of a report that are used; all others are skipped while it is parsed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Report {
    schema_version: u32,
    #[serde(default)]
    artifact_type: String,
    metadata: Option<Metadata>,
    #[serde(default)]
    results: Option<Vec<ResultBlock>>,
}

/// The part of a report on the image as a whole.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Metadata {
    #[serde(rename = "OS")]
    pub(crate) os: Option<Os>,
    #[serde(rename = "ImageID", default)]
    pub(crate) image_id: String,
    #[serde(rename = "DiffIDs", default)]
    pub(crate) diff_ids: Option<Vec<String>>,
}

/// The operating system of an image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Os {
    pub(crate) family: String,
    #[serde(default)]
    pub(crate) name: String,
    #[serde(rename = "EOSL", default)]
    end_of_life: bool,
}

#[derive(Debug, Deserialize)]
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
    #[serde(default)]
    vulnerabilities: Option<Vec<Vulnerability>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Vulnerability {
    #[serde(rename = "VulnerabilityID")]
    id: String,
    pkg_name: String,
    #[serde(default)]
    pkg_path: String,
    #[serde(default)]
    pkg_identifier: Identifier,
    #[serde(default)]
    layer: Layer,
    #[serde(default)]
    title: String,
    #[serde(rename = "PrimaryURL", default)]
    primary_url: String,
    #[serde(default)]
    installed_version: String,
    #[serde(default)]
    fixed_version: String,
    #[serde(default)]
    severity: String,
    #[serde(default)]
    severity_source: String,
    #[serde(rename = "CVSS", default)]
    cvss: Option<BTreeMap<String, Scores>>,
}

#[derive(Debug, Deserialize)]
struct Scores {
    #[serde(rename = "V2Score", default)]
    v2: f64,
    #[serde(rename = "V3Score", default)]
    v3: f64,
    #[serde(rename = "V40Score", default)]
    v4: f64,
}

/// One vulnerability in one package at one place, with the worst rating of those that the report gives it.
#[derive(Debug, Clone, Copy)]
struct RatedVulnerability<'a> {
    block: &'a ResultBlock,
    vulnerability: &'a Vulnerability,
    severity: Severity,
    score: Option<f64>,
    /// Empty where nothing fixes it.
    fixed_version: &'a str,
}

impl Report {
    /// Parses a report.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, ReportError> {
        let report: Self = serde_json::from_slice(bytes)?;
        if report.schema_version != SCHEMA {
            return Err(ReportError::Schema(report.schema_version));
        }
        Ok(report)
    }

    /// Sums up the report, which must be on the image with the configuration that was written and the verified layers.
    pub(crate) fn summary_of(
        &self,
        config_digest: &str,
        diff_ids: &[&str],
    ) -> Result<Summary, ReportError> {
        if self.artifact_type != "container_image" {
            return Err(ReportError::OtherImage {
                wanted: "container_image".to_owned(),
                found: self.artifact_type.clone(),
            });
        }
        let metadata = self.metadata.as_ref().ok_or(ReportError::NoMetadata)?;
        if metadata.image_id != config_digest {
            return Err(ReportError::OtherImage {
                wanted: config_digest.to_owned(),
                found: metadata.image_id.clone(),
            });
        }
        if metadata.diff_ids.as_deref().unwrap_or_default() != diff_ids {
            return Err(ReportError::OtherLayers);
        }
        Ok(self.summary(metadata.os.as_ref()))
    }

    /// Returns the kind of package and the identifier of each vulnerability.
    pub(crate) fn vulnerabilities(&self) -> impl Iterator<Item = (&str, &str)> {
        self.results().flat_map(|block| {
            let found = block.vulnerabilities.iter().flatten();
            found.map(|found| (block.r#type.as_str(), found.id.as_str()))
        })
    }

    fn results(&self) -> impl Iterator<Item = &ResultBlock> {
        self.results.iter().flatten()
    }

    fn summary(&self, os: Option<&Os>) -> Summary {
        let mut summary = Summary {
            os: os.map(Os::text).unwrap_or_default(),
            family: os.map(Os::family).unwrap_or_default().to_owned(),
            version: os.map(|os| os.name.clone()).unwrap_or_default(),
            end_of_life: os.is_some_and(|os| os.end_of_life),
            ..Summary::default()
        };
        for block in self.results() {
            let listed = block.packages.as_ref().map_or(0, Vec::len);
            let listed = u64::try_from(listed).unwrap_or(u64::MAX);
            if !block.lists_packages() {
                continue;
            }
            match block.class.as_str() {
                OS_PACKAGES => summary.os_packages = summary.os_packages.saturating_add(listed),
                "lang-pkgs" if listed > 0 => drop(summary.languages.insert(block.r#type.clone())),
                _ => {}
            }
            summary.packages = summary.packages.saturating_add(listed);
        }
        for finding in self.findings().values() {
            summary.counts.add(finding.severity);
            finding.count_in(&mut summary.dtr);
            summary.fixable += u64::from(!finding.fixed_version.is_empty());
        }
        summary
    }

    /// Returns each vulnerability once per package, version and place.
    ///
    /// Trivy can list one twice, as when two advisories name it; then the worse of the two ratings counts. Two binary
    /// packages of one source package, or one package at two places, are two findings, as Trivy shows them.
    fn findings(&self) -> BTreeMap<[&str; 4], RatedVulnerability<'_>> {
        let mut findings = BTreeMap::new();
        for block in self.results() {
            for found in block.vulnerabilities.iter().flatten() {
                let place = if found.pkg_path.is_empty() {
                    &block.target
                } else {
                    &found.pkg_path
                };
                let key = [
                    found.id.as_str(),
                    found.pkg_name.as_str(),
                    found.installed_version.as_str(),
                    place.as_str(),
                ];
                let new = found.rated(block);
                let kept = findings.entry(key).or_insert(new);
                kept.severity = kept.severity.max(new.severity);
                kept.score = worse_score(kept.score, new.score);
                if kept.fixed_version.is_empty() {
                    kept.fixed_version = new.fixed_version;
                }
            }
        }
        findings
    }
}

impl ResultBlock {
    /// Says whether it is on packages: blocks of secrets, licences and misconfigurations are not.
    fn lists_packages(&self) -> bool {
        [OS_PACKAGES, "lang-pkgs"].contains(&self.class.as_str())
    }
}

impl Os {
    fn text(&self) -> String {
        format!("{} {}", self.family(), self.name).trim().to_owned()
    }

    fn family(&self) -> &str {
        if self.family == "none" {
            ""
        } else {
            &self.family
        }
    }
}

impl Vulnerability {
    fn rated<'a>(&'a self, block: &'a ResultBlock) -> RatedVulnerability<'a> {
        RatedVulnerability {
            block,
            vulnerability: self,
            severity: severity(&self.severity),
            score: self.score(),
            fixed_version: &self.fixed_version,
        }
    }

    /// Returns the score of the source that rated the severity, else of NVD, else the worst of any source.
    fn score(&self) -> Option<f64> {
        let all = self.cvss.as_ref()?;
        let of = |source: &str| all.get(source).and_then(Scores::best);
        of(&self.severity_source)
            .or_else(|| of("nvd"))
            .or_else(|| all.values().filter_map(Scores::best).reduce(f64::max))
    }
}

impl Scores {
    /// Returns the score of version 3, which nearly all have, else of 4, else of 2; zero stands for none.
    fn best(&self) -> Option<f64> {
        [self.v3, self.v4, self.v2]
            .into_iter()
            .find(|score| *score > 0.0)
    }
}

impl RatedVulnerability<'_> {
    /// Counts the finding by its score, else by its severity; one that has neither is in none of the three.
    const fn count_in(&self, dtr: &mut DtrCounts) {
        let count = match (self.score, self.severity) {
            (Some(score), _) if score >= 7.0 => &mut dtr.critical,
            (Some(score), _) if score >= 4.0 => &mut dtr.major,
            (Some(_), _) => &mut dtr.minor,
            (None, Severity::Critical | Severity::High) => &mut dtr.critical,
            (None, Severity::Medium) => &mut dtr.major,
            (None, Severity::Low) => &mut dtr.minor,
            (None, Severity::Unknown) => return,
        };
        *count = count.saturating_add(1);
    }
}

/// Reads a severity. One that is not known counts as unrated, so that it is never taken for harmless.
fn severity(text: &str) -> Severity {
    match text {
        "CRITICAL" => Severity::Critical,
        "HIGH" => Severity::High,
        "MEDIUM" => Severity::Medium,
        "LOW" => Severity::Low,
        _ => Severity::Unknown,
    }
}

fn worse_score(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::max)
}

#[cfg(test)]
mod tests;
