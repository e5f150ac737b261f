//! The findings of an image, and the images with a vulnerability, a package or a licence.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Extract};
use serde::{Deserialize, Serialize};
use sluice_domain::{Digest, Finding, Package, Pattern, Severity};
use sluice_events::wire::state::{TagEntry, Verdict};
use sluice_registry::ImageReference;
use sluice_state::{SearchTerm, key};
use utoipa::ToSchema;

use super::images::VerdictState;
use super::problem::{Problem, ProblemBody};
use super::{Api, PathParameter};

/// How many tags a search returns at most.
const MAX_TAGS: usize = 1_000;

/// The findings of an image.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImageFindings {
    /// The digest of the image or index.
    digest: String,
    /// The manifests that can be run.
    manifests: Vec<ManifestFindings>,
}

/// The findings of a manifest.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ManifestFindings {
    /// The platform, empty if it has none.
    platform: String,
    /// The digest of the manifest.
    digest: String,
    /// The verdict of the scanner, if there is one; without `covered` the absence of findings says nothing.
    verdict: Option<VerdictState>,
    /// The findings, the worst first.
    findings: Vec<FindingState>,
}

/// One vulnerability in one package at one place.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FindingState {
    /// The identifier of the vulnerability.
    id: String,
    /// `critical`, `high`, `medium`, `low` or `unknown`.
    #[schema(value_type = String)]
    severity: Severity,
    /// Who rated the severity.
    severity_source: String,
    /// The CVSS score, 0 to 10.
    score: Option<f64>,
    /// The name of the package.
    package: String,
    /// The version that is installed.
    installed_version: String,
    /// The versions that fix it, empty where none does.
    fixed_version: String,
    /// The kind of package, as in `debian` or `python-pkg`.
    kind: String,
    /// The file of the package in the image, empty for a package of the operating system.
    path: String,
    /// The digest of the unpacked layer that brought the package.
    layer: String,
    /// What the vulnerability is, in one line.
    title: String,
    /// Where to read more.
    url: String,
}

/// A package.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PackageState {
    /// The kind of package, as in `debian` or `python-pkg`.
    kind: String,
    /// The name.
    name: String,
    /// The version.
    version: String,
    /// The file of the package in the image, empty for a package of the operating system.
    path: String,
    /// The licences that the package names.
    licenses: Vec<String>,
}

/// The images that a search found.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FoundImages {
    /// The images, by repository and tag.
    images: Vec<FoundImage>,
    /// How many tags there are, those that are not listed among them.
    total: usize,
    /// How many tags name an image that no scan covers as a whole, so that it could not be searched.
    unknown_tags: usize,
}

/// A tag whose image has what was searched for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FoundImage {
    /// The image, as in `hub/app:1.0`.
    image: String,
    /// The digest of the tag.
    digest: String,
    /// The manifests that have it.
    manifests: Vec<FoundManifest>,
}

/// A manifest that has what was searched for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FoundManifest {
    /// The platform, empty if it has none.
    platform: String,
    /// The digest of the manifest.
    digest: String,
    /// The findings of the vulnerability.
    findings: Vec<FindingState>,
    /// The packages of the name or licence.
    packages: Vec<PackageState>,
}

/// What to search for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchQuery {
    vulnerability: Option<String>,
    package: Option<String>,
    license: Option<String>,
    repository: Option<Pattern>,
    limit: Option<usize>,
}

/// Shows the findings of an image.
#[utoipa::path(get, path = "/api/v1/findings/{image}", tag = "findings",
    params(("image" = String, Path, description = "as in `hub/alpine:3.20` or `hub/alpine@sha256:...`")),
    responses((status = 200, body = ImageFindings), (status = "default", body = ProblemBody)))]
pub(super) async fn show(
    Extract(api): Extract<Api>,
    image: PathParameter<String>,
) -> Result<Json<ImageFindings>, Problem> {
    let image: ImageReference = image?.parse().map_err(Problem::invalid)?;
    let digest = digest_of(&api, &image).await?;
    let mut manifests = Vec::new();
    for (child, verdict) in api.state.verdicts_on(&digest).await? {
        let findings = findings(&api, verdict.as_ref()).await?;
        manifests.push(ManifestFindings {
            platform: child.platform,
            digest: child.digest,
            verdict: verdict.map(Into::into),
            findings: findings.into_iter().map(Into::into).collect(),
        });
    }
    Ok(Json(ImageFindings {
        digest: digest.to_string(),
        manifests,
    }))
}

/// Finds the images with a vulnerability, a package or a licence.
#[utoipa::path(get, path = "/api/v1/findings", tag = "findings",
    params(
        ("vulnerability" = Option<String>, Query, description = "the identifier of a vulnerability; one of this, `package` and `license`"),
        ("package" = Option<String>, Query, description = "the name of a package"),
        ("license" = Option<String>, Query, description = "the licence of a package, as packages write it"),
        ("repository" = Option<String>, Query, description = "a pattern of the repositories, as in `official/*`; all by default"),
        ("limit" = Option<usize>, Query, description = "the most tags that are returned, 1 to 1000; 1000 by default"),
    ),
    responses((status = 200, body = FoundImages), (status = "default", body = ProblemBody)))]
pub(super) async fn search(
    Extract(api): Extract<Api>,
    query: Result<Query<SearchQuery>, QueryRejection>,
) -> Result<Json<FoundImages>, Problem> {
    let Query(query) = query.map_err(|error| Problem::invalid(error.body_text()))?;
    let terms = [
        query.vulnerability.map(SearchTerm::Vulnerability),
        query.package.map(SearchTerm::Package),
        query.license.map(SearchTerm::License),
    ];
    let mut terms = terms.into_iter().flatten();
    let (Some(term), None) = (terms.next(), terms.next()) else {
        return Err(Problem::invalid(
            "set exactly one of `vulnerability`, `package` and `license`",
        ));
    };
    let limit = query.limit.unwrap_or(MAX_TAGS);
    if !(1..=MAX_TAGS).contains(&limit) {
        return Err(Problem::invalid("`limit` must be 1 to 1000"));
    }
    let pattern = query.repository.as_ref();
    let is_wanted = |tag: &TagEntry| pattern.is_none_or(|pattern| pattern.matches(&tag.repository));
    let found = api.state.search_findings(&term, is_wanted, limit).await?;
    let images = found.images.into_iter().map(Into::into);
    Ok(Json(FoundImages {
        images: images.collect(),
        total: found.total,
        unknown_tags: found.unknown_tags,
    }))
}

async fn digest_of(api: &Api, image: &ImageReference) -> Result<Digest, Problem> {
    if let Some(digest) = &image.digest {
        return Ok(digest.clone());
    }
    let Some(tag) = &image.tag else {
        return Err(Problem::invalid(
            "name a tag or a digest, as in `hub/alpine:3.20`",
        ));
    };
    let entry = api
        .state
        .tags
        .get(&key::tag(&image.repository, tag))
        .await?;
    // A tag that was removed names no digest.
    entry
        .and_then(|entry| entry.value.digest.parse().ok())
        .ok_or_else(|| Problem::missing(format!("tag `{}:{tag}`", image.repository)))
}

async fn findings(api: &Api, verdict: Option<&Verdict>) -> Result<Vec<Finding>, Problem> {
    match verdict.map(|verdict| verdict.findings_key.as_str()) {
        None | Some("") => Ok(Vec::new()),
        Some(key) => Ok(api.state.findings(key).await?.findings),
    }
}

impl From<Finding> for FindingState {
    fn from(finding: Finding) -> Self {
        Self {
            id: finding.id,
            severity: finding.severity,
            severity_source: finding.severity_source,
            score: finding.score,
            package: finding.package,
            installed_version: finding.installed_version,
            fixed_version: finding.fixed_version,
            kind: finding.kind,
            path: finding.path,
            layer: finding.layer,
            title: finding.title,
            url: finding.url,
        }
    }
}

impl From<Package> for PackageState {
    fn from(package: Package) -> Self {
        Self {
            kind: package.kind,
            name: package.name,
            version: package.version,
            path: package.path,
            licenses: package.licenses,
        }
    }
}

impl From<sluice_state::FoundImage> for FoundImage {
    fn from(found: sluice_state::FoundImage) -> Self {
        Self {
            image: format!("{}:{}", found.tag.repository, found.tag.tag),
            digest: found.tag.digest,
            manifests: found.manifests.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<sluice_state::FoundManifest> for FoundManifest {
    fn from(found: sluice_state::FoundManifest) -> Self {
        let findings = found.matches.findings.into_iter().map(Into::into);
        let packages = found.matches.packages.into_iter().map(Into::into);
        Self {
            platform: found.platform,
            digest: found.digest,
            findings: findings.collect(),
            packages: packages.collect(),
        }
    }
}
