//! What a report of Trivy says: whose it is, what was recognised, and how many findings there are.
//!
//! A report that cannot be told to be the right one is an error, never a clean result.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::IgnoredAny;
use sluice_domain::{Severity, SeverityCounts};
use thiserror::Error;

/// The only form of reports that is understood.
const SCHEMA: u32 = 2;

/// Why a report cannot be used.
#[derive(Debug, Error)]
pub(crate) enum Unusable {
    #[error("the report is no JSON of the expected form")]
    Unreadable(#[from] serde_json::Error),
    #[error("the report has schema version {0}, only 2 is understood; use a Trivy that writes it")]
    Schema(u32),
    #[error("the report is about `{found}`, not about `{wanted}`")]
    Other { wanted: String, found: String },
    #[error("the report does not say what it is about")]
    Anonymous,
    #[error("the report is not about the layers that were verified")]
    OtherLayers,
}

/// Returns how many findings a report tells of the image that has this configuration and these layers.
#[doc(hidden)]
#[must_use]
pub fn findings_of(report: &[u8], config_digest: &str, diff_ids: &[&str]) -> Option<u64> {
    let report = Report::read(report).ok()?;
    let counts = report.of_image(config_digest, diff_ids).ok()?.counts;
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

/// What is read of a report; everything else is skipped while it is parsed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Report {
    schema_version: u32,
    #[serde(default)]
    artifact_type: String,
    metadata: Option<Metadata>,
    #[serde(default)]
    results: Option<Vec<Block>>,
}

/// What a report says of the image as a whole.
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
struct Block {
    #[serde(default)]
    target: String,
    #[serde(default)]
    class: String,
    #[serde(default)]
    r#type: String,
    #[serde(default)]
    packages: Option<Vec<IgnoredAny>>,
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

/// What Trivy found in one image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Findings by severity.
    pub(crate) counts: SeverityCounts,
    /// Findings by DTR's three names.
    pub(crate) dtr: Dtr,
    /// Findings that have a fix.
    pub(crate) fixable: u64,
    /// Packages that were seen.
    pub(crate) packages: u64,
    /// Those of them that belong to the operating system.
    pub(crate) os_packages: u64,
    /// The operating system, empty where none was recognised.
    pub(crate) os: String,
    /// The family of the operating system as Trivy names it, empty where none was recognised.
    pub(crate) family: String,
    /// Its version.
    pub(crate) version: String,
    /// Whether that gets no more updates.
    pub(crate) end_of_life: bool,
    /// The kinds of packages of languages that were recognised, as Trivy names them: `python-pkg`, `jar`.
    pub(crate) languages: BTreeSet<String>,
}

/// Findings by the names that Docker Trusted Registry gave them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Dtr {
    pub(crate) critical: u64,
    pub(crate) major: u64,
    pub(crate) minor: u64,
}

/// One vulnerability in one package at one place.
#[derive(Debug, Clone, Copy)]
struct Finding {
    severity: Severity,
    score: Option<f64>,
    fixable: bool,
}

impl Report {
    /// Reads a report.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Unusable> {
        let report: Self = serde_json::from_slice(bytes)?;
        if report.schema_version != SCHEMA {
            return Err(Unusable::Schema(report.schema_version));
        }
        Ok(report)
    }

    /// Sums up the report of the image that has the configuration that was written, and the layers that were verified.
    pub(crate) fn of_image(
        &self,
        config_digest: &str,
        diff_ids: &[&str],
    ) -> Result<Summary, Unusable> {
        if self.artifact_type != "container_image" {
            return Err(Unusable::Other {
                wanted: "container_image".to_owned(),
                found: self.artifact_type.clone(),
            });
        }
        let metadata = self.metadata.as_ref().ok_or(Unusable::Anonymous)?;
        if metadata.image_id != config_digest {
            return Err(Unusable::Other {
                wanted: config_digest.to_owned(),
                found: metadata.image_id.clone(),
            });
        }
        if metadata.diff_ids.as_deref().unwrap_or_default() != diff_ids {
            return Err(Unusable::OtherLayers);
        }
        Ok(self.summary(metadata.os.as_ref()))
    }

    /// Returns the vulnerabilities that were found, each with the kind of package.
    pub(crate) fn vulnerabilities(&self) -> impl Iterator<Item = (&str, &str)> {
        self.blocks().flat_map(|block| {
            let found = block.vulnerabilities.iter().flatten();
            found.map(|found| (block.r#type.as_str(), found.id.as_str()))
        })
    }

    fn blocks(&self) -> impl Iterator<Item = &Block> {
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
        for block in self.blocks() {
            let seen = block.packages.as_ref().map_or(0, Vec::len);
            let seen = u64::try_from(seen).unwrap_or(u64::MAX);
            match block.class.as_str() {
                "os-pkgs" => summary.os_packages = summary.os_packages.saturating_add(seen),
                "lang-pkgs" if seen > 0 => drop(summary.languages.insert(block.r#type.clone())),
                "lang-pkgs" => {}
                // Secrets, licences and misconfigurations are no packages and no vulnerabilities.
                _ => continue,
            }
            summary.packages = summary.packages.saturating_add(seen);
        }
        for finding in self.findings().values() {
            summary.counts.add(finding.severity);
            summary.dtr.add(finding);
            summary.fixable += u64::from(finding.fixable);
        }
        summary
    }

    /// Returns each vulnerability once per package, version and place.
    ///
    /// Trivy can tell the same one twice, as when two advisories name it; the worse rating of the two counts then. Two
    /// binary packages of one source package, or one package at two places, are two findings, as Trivy shows them.
    fn findings(&self) -> BTreeMap<[&str; 4], Finding> {
        let mut findings = BTreeMap::new();
        for block in self.blocks() {
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
                let new = found.finding();
                let kept = findings.entry(key).or_insert(new);
                kept.severity = kept.severity.max(new.severity);
                kept.score = worse(kept.score, new.score);
                kept.fixable |= new.fixable;
            }
        }
        findings
    }
}

impl Summary {
    /// Says whether the scanner understood the image: a system or language was recognised, and packages were seen.
    pub(crate) fn covers(&self) -> bool {
        (!self.os.is_empty() || !self.languages.is_empty()) && self.packages > 0
    }

    /// Says in words why it does not.
    pub(crate) fn uncovered(&self) -> String {
        if self.os.is_empty() {
            "Trivy recognised neither an operating system nor packages of a language".to_owned()
        } else {
            format!("Trivy recognised `{}` but saw no packages", self.os)
        }
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
    fn finding(&self) -> Finding {
        Finding {
            severity: severity(&self.severity),
            score: self.score(),
            fixable: !self.fixed_version.is_empty(),
        }
    }

    /// Returns the score of whoever rated the severity, else NVD's, else the worst that anybody gives.
    fn score(&self) -> Option<f64> {
        let all = self.cvss.as_ref()?;
        let of = |source: &str| all.get(source).and_then(Scores::best);
        of(&self.severity_source)
            .or_else(|| of("nvd"))
            .or_else(|| all.values().filter_map(Scores::best).reduce(f64::max))
    }
}

impl Scores {
    /// Returns the score of version 3, which nearly all have, else of 4, else of 2; zero says that there is none.
    fn best(&self) -> Option<f64> {
        [self.v3, self.v4, self.v2]
            .into_iter()
            .find(|score| *score > 0.0)
    }
}

impl Dtr {
    /// Counts by score, else by severity; what has neither is unknown and in none of the three.
    const fn add(&mut self, finding: &Finding) {
        let count = match (finding.score, finding.severity) {
            (Some(score), _) if score >= 7.0 => &mut self.critical,
            (Some(score), _) if score >= 4.0 => &mut self.major,
            (Some(_), _) => &mut self.minor,
            (None, Severity::Critical | Severity::High) => &mut self.critical,
            (None, Severity::Medium) => &mut self.major,
            (None, Severity::Low) => &mut self.minor,
            (None, Severity::Unknown) => return,
        };
        *count = count.saturating_add(1);
    }
}

/// A severity that is not known to us is one that nobody rated, so that it is never taken for harmless.
fn severity(text: &str) -> Severity {
    match text {
        "CRITICAL" => Severity::Critical,
        "HIGH" => Severity::High,
        "MEDIUM" => Severity::Medium,
        "LOW" => Severity::Low,
        _ => Severity::Unknown,
    }
}

fn worse(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::max)
}

#[cfg(test)]
mod tests;
