//! Tags and images, with verdicts and decisions.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Extract};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sluice_domain::{Digest, Repository, Tag, Target};
use sluice_events::time_from_wire;
use sluice_events::wire::events::{Reason, SeverityCounts};
use sluice_events::wire::state::{Decision, DecisionOutcome, TagEntry, Verdict, VerdictStatus};
use sluice_registry::ImageReference;
use sluice_state::key;
use utoipa::ToSchema;

use super::problem::{Problem, ProblemBody};
use super::{Api, PathParameter};

/// How many tags one answer lists at most.
const MAX_TAGS: usize = 1_000;

/// A tag.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TagState {
    /// The repository.
    repository: String,
    /// The tag.
    tag: String,
    /// The digest of the tag, empty if it was removed.
    digest: String,
    /// When the tag was last written.
    #[schema(value_type = Option<String>, format = DateTime)]
    arrived_at: Option<DateTime<Utc>>,
    /// The stage or account that wrote the tag.
    arrived_by: String,
    /// The mirror, if the image was mirrored.
    mirror: String,
    /// The source of the promotion, as in `hub/app:1.0`, if the image was promoted.
    promoted_from: Option<String>,
    /// Whether the tag was removed.
    removed: bool,
}

/// An image at a tag, with its verdicts and decisions.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImageState {
    /// The tag.
    tag: TagState,
    /// The media type of the manifest, empty if it is not known yet.
    media_type: String,
    /// The size of all layers.
    size_bytes: u64,
    /// The manifests of the image, each with its verdict.
    manifests: Vec<ManifestState>,
    /// The decisions of each policy on this digest and on earlier ones of the tag.
    decisions: Vec<DecisionState>,
}

/// One manifest of an image.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ManifestState {
    /// The platform, empty if it has none.
    platform: String,
    /// The digest of the manifest.
    digest: String,
    /// Whether the manifest is an attestation and not runnable.
    attestation: bool,
    /// The verdict of the scanner, if there is one.
    verdict: Option<VerdictState>,
}

/// The verdict of a scanner on a manifest.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct VerdictState {
    /// The scanner.
    scanner: String,
    /// The version of its database.
    database_version: String,
    /// `covered`, `unsupported` or `failed`.
    status: &'static str,
    /// The reason if the result is not usable.
    reason: String,
    /// The findings; they count only where the status is `covered`.
    findings: Counts,
    /// The number of packages that the scanner found.
    packages: u64,
    /// The operating system, empty if there is none.
    os: String,
    /// When the manifest was scanned.
    #[schema(value_type = Option<String>, format = DateTime)]
    scanned_at: Option<DateTime<Utc>>,
}

/// The number of findings of each severity.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Counts {
    critical: u64,
    high: u64,
    medium: u64,
    low: u64,
    unknown: u64,
}

/// The decision of a policy.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DecisionState {
    /// The policy.
    policy: String,
    /// The evaluated digest.
    digest: String,
    /// The target, as in `official/app:1.0` or `registry.example/team/app:1.0`.
    target: String,
    /// `allow`, `deny`, `wait` or `undetermined`.
    outcome: &'static str,
    /// The result of every rule.
    reasons: Vec<ReasonState>,
    /// When the policy decided.
    #[schema(value_type = Option<String>, format = DateTime)]
    decided_at: Option<DateTime<Utc>>,
    /// When the image is evaluated again, if the outcome is `wait`.
    #[schema(value_type = Option<String>, format = DateTime)]
    wait_until: Option<DateTime<Utc>>,
    /// Why a promoted image is no longer allowed, empty if it is.
    flagged: String,
    /// A note on an image in a remote registry, for example that its tag was overwritten.
    note: String,
}

/// One rule of a decision.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReasonState {
    /// The rule.
    rule: String,
    /// The detail of the result, for people.
    detail: String,
    /// Whether the rule passed.
    passed: bool,
    /// Whether the rule is undetermined.
    undetermined: bool,
}

/// The page of a list of tags.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TagPage {
    after: Option<Tag>,
    limit: Option<usize>,
}

/// Lists the tags of a repository, at most 1000 in a page.
#[utoipa::path(get, path = "/api/v1/tags/{repository}", tag = "images",
    params(
        ("repository" = String, Path, description = "as in `hub/alpine`"),
        ("after" = Option<String>, Query,
            description = "lists the tags after this one; for all tags, pass the last tag of the previous page until a page is empty"),
        ("limit" = Option<usize>, Query, description = "the most tags of the page, 1 to 1000; 1000 by default"),
    ),
    responses((status = 200, body = [TagState]), (status = "default", body = ProblemBody)))]
pub(super) async fn tags(
    Extract(api): Extract<Api>,
    repository: PathParameter<String>,
    page: Result<Query<TagPage>, QueryRejection>,
) -> Result<Json<Vec<TagState>>, Problem> {
    let repository: Repository = repository?.parse().map_err(Problem::invalid)?;
    let Query(TagPage { after, limit }) =
        page.map_err(|error| Problem::invalid(error.body_text()))?;
    let limit = limit.unwrap_or(MAX_TAGS);
    if !(1..=MAX_TAGS).contains(&limit) {
        return Err(Problem::invalid("`limit` must be 1 to 1000"));
    }
    let after = after.map_or_else(String::new, |tag| key::tag(&repository, &tag));
    let tags = &api.state.tags;
    let filter = key::tags_of(&repository);
    let entries = tags.list_after(&filter, &after, limit).await?;
    let tags = entries.into_iter().map(|entry| entry.value.into());
    Ok(Json(tags.collect()))
}

/// Shows an image with its verdicts and decisions.
#[utoipa::path(get, path = "/api/v1/images/{image}", tag = "images",
    params(("image" = String, Path, description = "as in `hub/alpine:3.20`")),
    responses((status = 200, body = ImageState), (status = "default", body = ProblemBody)))]
pub(super) async fn show(
    Extract(api): Extract<Api>,
    image: PathParameter<String>,
) -> Result<Json<ImageState>, Problem> {
    let image: ImageReference = image?.parse().map_err(Problem::invalid)?;
    let Some(tag) = image.tag.filter(|_| image.digest.is_none()) else {
        return Err(Problem::invalid("name the tag, as in `hub/alpine:3.20`"));
    };
    let state = &api.state;
    let entry = state
        .tags
        .get(&key::tag(&image.repository, &tag))
        .await?
        .ok_or_else(|| Problem::missing(format!("tag `{}:{tag}`", image.repository)))?
        .value;
    let mut shown = ImageState {
        media_type: String::new(),
        size_bytes: 0,
        manifests: Vec::new(),
        decisions: Vec::new(),
        tag: entry.clone().into(),
    };
    if let Ok(digest) = entry.digest.parse::<Digest>()
        && let Some(known) = state.images.get(&key::image(&digest)).await?
    {
        shown.media_type = known.value.media_type;
        shown.size_bytes = known.value.size_bytes;
        for child in known.value.children {
            let verdict = match child.digest.parse::<Digest>() {
                Ok(digest) => state.verdicts.get(&key::verdict(&digest)).await?,
                Err(_) => None,
            };
            shown.manifests.push(ManifestState {
                platform: child.platform,
                digest: child.digest,
                attestation: child.attestation,
                verdict: verdict.map(|entry| entry.value.into()),
            });
        }
    }
    let filter = key::decisions_on(&image.repository, &tag);
    let decisions = state.decisions.list(&filter).await?;
    shown.decisions = decisions.into_iter().map(|one| one.value.into()).collect();
    Ok(Json(shown))
}

impl From<TagEntry> for TagState {
    fn from(entry: TagEntry) -> Self {
        Self {
            removed: entry.digest.is_empty(),
            repository: entry.repository,
            tag: entry.tag,
            digest: entry.digest,
            arrived_at: time_from_wire(entry.arrived_at.as_ref()),
            arrived_by: entry.arrived_by,
            mirror: entry.mirror,
            promoted_from: entry
                .promoted_from
                .map(|from| format!("{}:{}", from.repository, from.tag)),
        }
    }
}

impl From<Verdict> for VerdictState {
    fn from(verdict: Verdict) -> Self {
        Self {
            status: match verdict.status() {
                VerdictStatus::Covered => "covered",
                VerdictStatus::Unsupported => "unsupported",
                VerdictStatus::Failed => "failed",
                VerdictStatus::Unspecified => "unknown",
            },
            findings: verdict.counts.unwrap_or_default().into(),
            scanned_at: time_from_wire(verdict.scanned_at.as_ref()),
            scanner: verdict.scanner,
            database_version: verdict.database_version,
            reason: verdict.reason,
            packages: verdict.packages,
            os: verdict.os,
        }
    }
}

impl From<SeverityCounts> for Counts {
    fn from(counts: SeverityCounts) -> Self {
        Self {
            critical: counts.critical,
            high: counts.high,
            medium: counts.medium,
            low: counts.low,
            unknown: counts.unknown,
        }
    }
}

impl From<Decision> for DecisionState {
    fn from(decision: Decision) -> Self {
        Self {
            outcome: match decision.outcome() {
                DecisionOutcome::Allow => "allow",
                DecisionOutcome::Deny => "deny",
                DecisionOutcome::Wait => "wait",
                DecisionOutcome::Undetermined => "undetermined",
                DecisionOutcome::Unspecified => "unknown",
            },
            target: Target::from_stored(&decision.target).map_or_else(
                |_| String::new(),
                |target| format!("{target}:{}", decision.target_tag),
            ),
            decided_at: time_from_wire(decision.decided_at.as_ref()),
            wait_until: time_from_wire(decision.wait_until.as_ref()),
            policy: decision.policy,
            digest: decision.digest,
            reasons: decision.reasons.into_iter().map(Into::into).collect(),
            flagged: decision.flagged,
            note: decision.note,
        }
    }
}

impl From<Reason> for ReasonState {
    fn from(reason: Reason) -> Self {
        Self {
            rule: reason.rule,
            detail: reason.detail,
            passed: reason.passed,
            undetermined: reason.undetermined,
        }
    }
}
