//! The findings of one image, and how they differ from those of another one or of an earlier scan.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::Context as _;
use serde_json::{Value, json};
use sluice_domain::{Digest, Finding, FindingsDifference, Platform, Severity};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{ImageChild, Verdict};
use sluice_registry::ImageReference;
use sluice_state::{State, key};

use super::{FindingsFormat, export};
use crate::commands::inspect::explain::tag_status::{SCANS_HEADER, scan_status, verdict_row};
use crate::output::{Format, Section, line, lines, show_sections, text, time};

const HEADER: [&str; 8] = [
    "SEVERITY",
    "ID",
    "PACKAGE",
    "INSTALLED",
    "FIXED IN",
    "SCORE",
    "PLATFORMS",
    "TITLE",
];

/// What is shown of an image.
pub(super) struct Filter {
    /// The least severity.
    pub(super) severity: Severity,
    /// Whether only findings count that a newer package fixes.
    pub(super) fixable: bool,
    pub(super) platform: Option<Platform>,
}

/// What an image is compared with.
#[derive(Debug, Clone)]
pub(super) enum Other {
    /// The scan before the last one that found something else.
    Previous,
    Image(ImageReference),
}

/// A manifest with the verdict on it, and what was found.
pub(super) struct Scanned {
    pub(super) child: ImageChild,
    pub(super) verdict: Option<Verdict>,
    pub(super) findings: Vec<Finding>,
}

/// An image with the findings of its manifests.
pub(super) struct ImageFindings {
    pub(super) name: String,
    pub(super) digest: Digest,
    pub(super) manifests: Vec<Scanned>,
}

impl FromStr for Other {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "previous" {
            return Ok(Self::Previous);
        }
        text.parse().map(Self::Image)
    }
}

impl ImageFindings {
    /// Reads the findings of an image.
    pub(super) async fn read(
        state: &State,
        image: &ImageReference,
        filter: &Filter,
    ) -> anyhow::Result<Self> {
        let (name, digest) = resolve(state, image).await?;
        let mut manifests = Vec::new();
        for (child, verdict) in state.verdicts_on(&digest).await? {
            if !filter.has_platform(&child) {
                continue;
            }
            let key = verdict
                .as_ref()
                .map(|verdict| verdict.findings_key.as_str());
            let mut findings = read_findings(state, key).await?;
            findings.retain(|finding| filter.has(finding));
            manifests.push(Scanned {
                child,
                verdict,
                findings,
            });
        }
        anyhow::ensure!(
            !manifests.is_empty(),
            "`{name}` has no {}; `sluice explain` shows what is known of it",
            filter.platform.as_ref().map_or_else(
                || "manifest that was scanned".to_owned(),
                |platform| format!("platform `{platform}`")
            )
        );
        Ok(Self {
            name,
            digest,
            manifests,
        })
    }

    /// Shows the findings.
    pub(super) async fn show(&self, state: &State, format: FindingsFormat) -> anyhow::Result<()> {
        if let Some(general) = format.general() {
            let scans = Section {
                title: "SCANS",
                header: &SCANS_HEADER,
                rows: self.scan_rows(),
            };
            let found = Section {
                title: "FINDINGS",
                header: &HEADER,
                rows: rows(&self.grouped()),
            };
            let objects = json!({
                "image": self.name, "digest": self.digest,
                "manifests": self.manifests.iter().map(Scanned::object).collect::<Vec<Value>>(),
            });
            return show_sections(general, vec![scans, found], &objects);
        }
        match format {
            FindingsFormat::Csv => text(&export::findings_csv(self)?),
            FindingsFormat::Sarif => lines(&serde_json::to_string_pretty(&export::sarif(self))?),
            _ => {
                let [manifest] = self.manifests.as_slice() else {
                    let platforms = self.manifests.iter().map(|one| one.child.platform.as_str());
                    let platforms: Vec<&str> = platforms.collect();
                    anyhow::bail!(
                        "a bill of materials is of one platform; add `--platform` with one of {}",
                        platforms.join(", ")
                    );
                };
                let key = manifest.verdict.as_ref().map(|verdict| &verdict.sbom_key);
                let key = key.filter(|key| !key.is_empty());
                let key = key.with_context(|| {
                    format!(
                        "`{}` has no bill of materials, because no scan covers it",
                        self.name
                    )
                })?;
                let bill: Value = serde_json::from_slice(&state.report(key).await?)
                    .context("the stored bill of materials cannot be read")?;
                let bill = export::with_vulnerabilities(bill, &manifest.findings);
                lines(&serde_json::to_string_pretty(&bill)?)
            }
        }
    }

    /// Shows what is new and what is gone in comparison with another image or scan.
    pub(super) async fn show_difference(
        &self,
        state: &State,
        other: &Other,
        filter: &Filter,
        format: FindingsFormat,
    ) -> anyhow::Result<()> {
        let general = format.general();
        let general = general.context("differences are shown as `table`, `json` or `yaml`")?;
        let (named, earlier) = match other {
            Other::Image(image) => {
                let other = Self::read(state, image, filter).await?;
                (other.name.clone(), other.grouped())
            }
            Other::Previous => ("previous".to_owned(), self.previous(state, filter).await?),
        };
        let findings = |all: &Grouped| all.values().map(|one| one.0.clone()).collect::<Vec<_>>();
        let (earlier, later) = (findings(&earlier), findings(&self.grouped()));
        let difference = FindingsDifference::between(&earlier, &later);
        let section = |title, findings: &[Finding]| Section {
            title,
            header: HEADER.split_at(6).0,
            rows: findings.iter().map(row).collect(),
        };
        let sections = vec![
            section("NEW", &difference.appeared),
            section("GONE", &difference.disappeared),
        ];
        if general == Format::Table
            && difference.appeared.is_empty()
            && difference.disappeared.is_empty()
        {
            return line("no differences");
        }
        let objects = json!({
            "image": self.name, "comparedWith": named,
            "appeared": difference.appeared, "disappeared": difference.disappeared,
        });
        show_sections(general, sections, &objects)
    }

    /// Returns the findings of the scans before the last ones.
    async fn previous(&self, state: &State, filter: &Filter) -> anyhow::Result<Grouped> {
        let mut findings = Grouped::new();
        for manifest in &self.manifests {
            let former = manifest.verdict.iter().flat_map(|one| &one.former_reports);
            let mut former = former.map(|former| former.findings_key.as_str());
            let key = former.find(|key| !key.is_empty()).with_context(|| {
                format!(
                    "no scan of `{}` before the last one is kept; reports that do not differ are stored once",
                    self.name
                )
            })?;
            let mut earlier = read_findings(state, Some(key)).await?;
            earlier.retain(|finding| filter.has(finding));
            group(&mut findings, &manifest.child, &earlier);
        }
        Ok(findings)
    }

    /// Returns each finding once, with the platforms that have it.
    fn grouped(&self) -> Grouped {
        let mut grouped = Grouped::new();
        for manifest in &self.manifests {
            group(&mut grouped, &manifest.child, &manifest.findings);
        }
        grouped
    }

    fn scan_rows(&self) -> Vec<Vec<String>> {
        let pairs = self.manifests.iter();
        pairs
            .map(|one| verdict_row(&one.child, one.verdict.as_ref()))
            .collect()
    }
}

/// Findings by severity, worst first, and identity, with the platforms that have them.
type Grouped = BTreeMap<(std::cmp::Reverse<Severity>, [String; 4]), (Finding, Vec<String>)>;

fn group(grouped: &mut Grouped, child: &ImageChild, findings: &[Finding]) {
    for finding in findings {
        let [id, package, path] = finding.identity().map(str::to_owned);
        let installed = finding.installed_version.clone();
        let key = (
            std::cmp::Reverse(finding.severity),
            [id, package, path, installed],
        );
        let (_, platforms) = grouped
            .entry(key)
            .or_insert_with(|| (finding.clone(), Vec::new()));
        platforms.push(child.platform.clone());
    }
}

fn rows(grouped: &Grouped) -> Vec<Vec<String>> {
    let rows = grouped.values().map(|(finding, platforms)| {
        let mut cells = row(finding);
        cells.extend([platforms.join(", "), finding.title.clone()]);
        cells
    });
    rows.collect()
}

fn row(finding: &Finding) -> Vec<String> {
    vec![
        export::severity(finding.severity).to_owned(),
        finding.id.clone(),
        finding.package.clone(),
        finding.installed_version.clone(),
        finding.fixed_version.clone(),
        finding
            .score
            .map(|score| format!("{score:.1}"))
            .unwrap_or_default(),
    ]
}

impl Scanned {
    fn object(&self) -> Value {
        let verdict = self.verdict.clone().unwrap_or_default();
        json!({
            "platform": self.child.platform, "digest": self.child.digest,
            "status": scan_status(self.verdict.as_ref()), "reason": verdict.reason,
            "scanner": verdict.scanner, "databaseVersion": verdict.database_version,
            "scannedAt": time_from_wire(verdict.scanned_at.as_ref()).map(time),
            "os": verdict.os, "endOfLife": verdict.end_of_life, "findings": self.findings,
        })
    }
}

impl Filter {
    fn has(&self, finding: &Finding) -> bool {
        finding.severity >= self.severity && (!self.fixable || finding.is_fixable())
    }

    fn has_platform(&self, child: &ImageChild) -> bool {
        let wanted = self.platform.as_ref();
        wanted.is_none_or(|platform| platform.to_string() == child.platform)
    }
}

/// Reads findings; none where nothing was scanned.
async fn read_findings(state: &State, key: Option<&str>) -> anyhow::Result<Vec<Finding>> {
    match key.filter(|key| !key.is_empty()) {
        Some(key) => Ok(state.findings(key).await?.findings),
        None => Ok(Vec::new()),
    }
}

/// Returns the name and digest of an image.
async fn resolve(state: &State, image: &ImageReference) -> anyhow::Result<(String, Digest)> {
    let repository = &image.repository;
    match (&image.tag, &image.digest) {
        (_, Some(digest)) => Ok((format!("{repository}@{digest}"), digest.clone())),
        (Some(tag), None) => {
            let entry = state.tags.get(&key::tag(repository, tag)).await?;
            let entry = entry.filter(|entry| !entry.value.digest.is_empty());
            let entry = entry.with_context(|| {
                format!(
                    "`{repository}:{tag}` not found; `sluice get mirrors` shows what is mirrored"
                )
            })?;
            Ok((format!("{repository}:{tag}"), entry.value.digest.parse()?))
        }
        (None, None) => anyhow::bail!("name a tag or a digest, as in `{repository}:1.0`"),
    }
}
