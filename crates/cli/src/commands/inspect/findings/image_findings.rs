//! Reads the findings of one image, and of its scans before.

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::Context as _;
use sluice_domain::{Digest, Finding, Platform, Severity};
use sluice_events::wire::state::{ImageChild, Verdict, VerdictStatus};
use sluice_registry::ImageReference;
use sluice_state::{State, key};

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

    /// Returns the platforms that no scan covers, of which the absence of findings says nothing.
    pub(super) fn uncovered(&self) -> impl Iterator<Item = &str> {
        let covered = |one: &&Scanned| {
            let verdict = one.verdict.as_ref();
            verdict.is_some_and(|verdict| verdict.status() == VerdictStatus::Covered)
        };
        let uncovered = self.manifests.iter().filter(move |one| !covered(one));
        uncovered.map(|one| one.child.platform.as_str())
    }

    /// Fails unless a scan covers every platform.
    pub(super) fn ensure_covered(&self) -> anyhow::Result<()> {
        let uncovered: Vec<&str> = self.uncovered().collect();
        anyhow::ensure!(
            uncovered.is_empty(),
            "no scan covers `{}` ({}), so nothing is known of its vulnerabilities; `sluice explain` says why",
            self.name,
            uncovered.join(", ")
        );
        Ok(())
    }

    /// Returns the findings of the scans before the last ones that found something else; of a platform without one, those
    /// of its last scan.
    pub(super) async fn previous(&self, state: &State, filter: &Filter) -> anyhow::Result<Grouped> {
        let (mut findings, mut is_known) = (Grouped::new(), false);
        for manifest in &self.manifests {
            let now = manifest.verdict.clone().unwrap_or_default();
            let mut former = now.former_reports.iter().map(|one| &one.findings_key);
            let key = former.find(|key| !key.is_empty() && **key != now.findings_key);
            is_known |= key.is_some();
            let key = key.unwrap_or(&now.findings_key);
            let mut earlier = read_findings(state, Some(key)).await?;
            earlier.retain(|finding| filter.has(finding));
            group(&mut findings, &manifest.child, &earlier);
        }
        anyhow::ensure!(
            is_known,
            "no scan of `{}` is kept that found something else",
            self.name
        );
        Ok(findings)
    }

    /// Returns each finding once, with the platforms that have it.
    pub(super) fn grouped(&self) -> Grouped {
        let mut grouped = Grouped::new();
        for manifest in &self.manifests {
            group(&mut grouped, &manifest.child, &manifest.findings);
        }
        grouped
    }
}

/// Findings by severity, worst first, and identity, with the platforms that have them.
pub(super) type Grouped =
    BTreeMap<(std::cmp::Reverse<Severity>, [String; 4]), (Finding, Vec<String>)>;

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
