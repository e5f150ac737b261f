//! Shows the findings of an image, and how they differ from those of another one or of an earlier scan.

use anyhow::Context as _;
use serde_json::{Value, json};
use sluice_domain::{Finding, FindingsDifference};
use sluice_events::time_from_wire;
use sluice_state::State;

use super::export;
use super::format::FindingsFormat;
use super::image_findings::{Filter, Grouped, ImageFindings, Other, Scanned};
use crate::commands::inspect::explain::tag_status::{SCANS_HEADER, scan_status, verdict_row};
use crate::output::{Format, Section, line, lines, note, show_sections, text, time};

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

impl ImageFindings {
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
            FindingsFormat::Csv => {
                if let Err(error) = self.ensure_covered() {
                    note(&error.to_string());
                }
                text(&export::findings_csv(self)?)
            }
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
                self.ensure_covered()?;
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
        self.ensure_covered()?;
        let general = general.context("differences are shown as `table`, `json` or `yaml`")?;
        let (named, earlier) = match other {
            Other::Image(image) => {
                let other = Self::read(state, image, filter).await?;
                other.ensure_covered()?;
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

    fn scan_rows(&self) -> Vec<Vec<String>> {
        let pairs = self.manifests.iter();
        pairs
            .map(|one| verdict_row(&one.child, one.verdict.as_ref()))
            .collect()
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
