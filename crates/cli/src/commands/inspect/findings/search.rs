//! The images with a vulnerability, a package or a licence.

use anyhow::Context as _;
use serde_json::{Value, json};
use sluice_domain::{ManifestFindings, Pattern};
use sluice_events::wire::state::TagEntry;
use sluice_state::{FoundImage, FoundManifest, SearchTerm, State};

use super::export;
use super::format::FindingsFormat;
use crate::output::{count, note, show, text};

const HEADER: [&str; 7] = [
    "IMAGE",
    "PLATFORM",
    "SEVERITY",
    "PACKAGE",
    "INSTALLED",
    "FIXED IN",
    "LICENSES",
];

/// Returns what is searched for; clap has checked that it is one thing.
pub(super) fn term(
    cve: Option<String>,
    package: Option<String>,
    license: Option<String>,
) -> anyhow::Result<SearchTerm> {
    let term = cve.map(SearchTerm::Vulnerability);
    let term = term.or_else(|| package.map(SearchTerm::Package));
    let term = term.or_else(|| license.map(SearchTerm::License));
    term.context("name an image, or what to search for")
}

/// Searches, and shows the tags with what they have of it.
pub(super) async fn run(
    state: &State,
    term: &SearchTerm,
    repositories: &[Pattern],
    limit: usize,
    format: FindingsFormat,
) -> anyhow::Result<()> {
    let is_wanted = |tag: &TagEntry| {
        repositories.is_empty() || repositories.iter().any(|one| one.matches(&tag.repository))
    };
    let found = state.search_findings(term, is_wanted, limit).await?;
    let rows = || found.images.iter().flat_map(rows).collect::<Vec<_>>();
    match format.general() {
        Some(general) => {
            let objects = json!({
                "images": found.images.iter().map(object).collect::<Vec<Value>>(),
                "total": found.total,
                "unknownTags": found.unknown_tags,
            });
            show(general, &HEADER, rows(), &objects)?;
        }
        None if format == FindingsFormat::Csv => text(&export::csv(&HEADER, rows())?)?,
        None => anyhow::bail!("this format is for one image; use `table`, `json`, `yaml` or `csv`"),
    }
    let rest = found.total - found.images.len();
    if rest > 0 {
        note(&format!(
            "{} more; see `--limit`",
            count(rest as u64, "tag")
        ));
    }
    if found.unknown_tags > 0 {
        note(&format!(
            "{} could not be searched, because no scan covers the image as a whole; `sluice explain IMAGE` says why",
            count(found.unknown_tags as u64, "tag")
        ));
    }
    Ok(())
}

fn name(image: &FoundImage) -> String {
    format!("{}:{}", image.tag.repository, image.tag.tag)
}

/// Returns a row for each finding or package.
fn rows(image: &FoundImage) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for FoundManifest {
        platform, matches, ..
    } in &image.manifests
    {
        let ManifestFindings {
            findings, packages, ..
        } = matches;
        rows.extend(findings.iter().map(|finding| {
            vec![
                name(image),
                platform.clone(),
                export::severity(finding.severity).to_owned(),
                finding.package.clone(),
                finding.installed_version.clone(),
                finding.fixed_version.clone(),
                String::new(),
            ]
        }));
        rows.extend(packages.iter().map(|package| {
            vec![
                name(image),
                platform.clone(),
                String::new(),
                package.name.clone(),
                package.version.clone(),
                String::new(),
                package.licenses.join(", "),
            ]
        }));
    }
    rows
}

fn object(image: &FoundImage) -> Value {
    json!({
        "image": name(image), "digest": image.tag.digest,
        "manifests": image.manifests.iter().map(|manifest| json!({
            "platform": manifest.platform, "digest": manifest.digest,
            "findings": manifest.matches.findings, "packages": manifest.matches.packages,
        })).collect::<Vec<Value>>(),
    })
}
