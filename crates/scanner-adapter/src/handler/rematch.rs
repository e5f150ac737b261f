//! What a newer database changed about an image that was scanned before.

use std::collections::HashSet;

use sluice_domain::{Finding, FindingsDifference, ManifestFindings, ResourceName, SeverityCounts};
use sluice_events::facts::{ScanFindingsChanged, VulnerablePackage};
use sluice_events::wire::state::Verdict;
use sluice_state::{Error, State};

use crate::handler::scan_target::ScanTarget;
use crate::image::verdict::has_changed;

/// How many findings of each kind an event lists.
const MAX_LISTED: usize = 100;

/// Returns the event on an image whose result changed.
pub(crate) async fn findings_changed(
    state: &State,
    target: &ScanTarget,
    scanner: ResourceName,
    database_version: &str,
    verdicts: impl Iterator<Item = &Verdict>,
) -> Result<ScanFindingsChanged, Error> {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for verdict in verdicts {
        let now = read(state, &verdict.findings_key).await?;
        let mut former = verdict.former_reports.iter();
        let former = former.find(|former| former.findings_key != verdict.findings_key);
        let earlier = match former.filter(|_| has_changed(verdict, database_version)) {
            Some(former) => read(state, &former.findings_key).await?,
            None => now.clone(),
        };
        before.extend(earlier.findings);
        after.extend(now.findings);
    }
    let difference = FindingsDifference::between(&before, &after);
    Ok(ScanFindingsChanged {
        repository: target.repository.clone(),
        tag: target.tag.clone(),
        digest: target.digest.clone(),
        scanner,
        database_version: database_version.to_owned(),
        before: counts(&before),
        after: counts(&after),
        appeared: listed(difference.appeared),
        disappeared: listed(difference.disappeared),
    })
}

async fn read(state: &State, key: &str) -> Result<ManifestFindings, Error> {
    if key.is_empty() {
        return Ok(ManifestFindings::default());
    }
    state.findings(key).await
}

fn counts(findings: &[Finding]) -> SeverityCounts {
    let mut counts = SeverityCounts::default();
    for finding in findings {
        counts.add(finding.severity);
    }
    counts
}

/// Lists findings of all platforms, each once, the worst first.
fn listed(findings: Vec<Finding>) -> Vec<VulnerablePackage> {
    let (mut listed, mut known) = (Vec::new(), HashSet::new());
    for finding in findings {
        if !known.insert((finding.id.clone(), finding.package.clone())) {
            continue;
        }
        let package = VulnerablePackage {
            vulnerability: finding.id,
            package: finding.package,
            severity: finding.severity.as_str().to_owned(),
            fixed_version: finding.fixed_version,
        };
        listed.push((finding.severity, package));
    }
    listed.sort_by_key(|(severity, _)| std::cmp::Reverse(*severity));
    let worst = listed.into_iter().take(MAX_LISTED);
    worst.map(|(_, package)| package).collect()
}
