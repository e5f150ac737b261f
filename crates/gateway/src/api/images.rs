//! Tags and images: where each stands, what the scanner says, and what was decided.

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
use super::{Api, Given};

/// How many tags one answer lists at most.
const MOST_TAGS: usize = 1_000;

/// Where a tag stands.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TagState {
    /// The repository.
    repository: String,
    /// The tag.
    tag: String,
    /// What it points to, empty where it was removed.
    digest: String,
    /// When that arrived.
    #[schema(value_type = Option<String>, format = DateTime)]
    arrived_at: Option<DateTime<Utc>>,
    /// The stage or account that brought it.
    arrived_by: String,
    /// The mirror, if it was mirrored.
    mirror: String,
    /// Where it was promoted from, as in `hub/app:1.0`, if it was.
    promoted_from: Option<String>,
    /// Whether it was removed.
    removed: bool,
}

/// Everything that is known of an image at a tag.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImageState {
    /// Where the tag stands.
    tag: TagState,
    /// The media type of the manifest, empty where nobody has read it yet.
    media_type: String,
    /// The size of all layers.
    size_bytes: u64,
    /// Its manifests, each with what the scanner says.
    manifests: Vec<ManifestState>,
    /// What each policy decided of this digest, or of those before it.
    decisions: Vec<DecisionState>,
}

/// One manifest of an image.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ManifestState {
    /// The platform, empty where it has none.
    platform: String,
    /// Its digest.
    digest: String,
    /// Whether it is an attestation and not runnable.
    attestation: bool,
    /// What the scanner says, if it has said anything.
    verdict: Option<VerdictState>,
}

/// What a scanner says of a manifest.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct VerdictState {
    /// The scanner.
    scanner: String,
    /// The version of its database.
    database_version: String,
    /// `covered`, `unsupported` or `failed`.
    status: &'static str,
    /// Why there is no usable result.
    reason: String,
    /// The findings; they count only where the status is `covered`.
    findings: Counts,
    /// How many packages it saw.
    packages: u64,
    /// The operating system, empty where there is none.
    os: String,
    /// When it was scanned.
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

/// What a policy decided.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DecisionState {
    /// The policy.
    policy: String,
    /// The digest that was judged.
    digest: String,
    /// Where it is promoted to, as in `official/app:1.0` or `registry.example/team/app:1.0`.
    target: String,
    /// `allow`, `deny`, `wait` or `undetermined`.
    outcome: &'static str,
    /// Every rule and how it came out.
    reasons: Vec<ReasonState>,
    /// When it was decided.
    #[schema(value_type = Option<String>, format = DateTime)]
    decided_at: Option<DateTime<Utc>>,
    /// When it is judged again, if it waits.
    #[schema(value_type = Option<String>, format = DateTime)]
    wait_until: Option<DateTime<Utc>>,
    /// Why a promoted image no longer passes, empty while it does.
    flagged: String,
    /// What is known besides of an image in a remote registry, as that somebody else wrote over its tag.
    note: String,
}

/// One rule of a decision.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ReasonState {
    /// The rule.
    rule: String,
    /// What was found, in words.
    detail: String,
    /// Whether it held.
    passed: bool,
    /// Whether it cannot be told.
    undetermined: bool,
}

/// Which tags of a repository are listed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TagPage {
    after: Option<Tag>,
    limit: Option<usize>,
}

/// Lists the tags of a repository, at most 1000 at once.
#[utoipa::path(get, path = "/api/v1/tags/{repository}", tag = "images",
    params(
        ("repository" = String, Path, description = "as in `hub/alpine`"),
        ("after" = Option<String>, Query,
            description = "begins after this tag; whoever wants all gives the last of the list before, until one is empty"),
        ("limit" = Option<usize>, Query, description = "how many tags at most, 1 to 1000; 1000 if it is left out"),
    ),
    responses((status = 200, body = [TagState]), (status = "default", body = ProblemBody)))]
pub(super) async fn tags(
    Extract(api): Extract<Api>,
    repository: Given<String>,
    page: Result<Query<TagPage>, QueryRejection>,
) -> Result<Json<Vec<TagState>>, Problem> {
    let repository: Repository = repository?.parse().map_err(Problem::invalid)?;
    let Query(TagPage { after, limit }) =
        page.map_err(|error| Problem::invalid(error.body_text()))?;
    let limit = limit.unwrap_or(MOST_TAGS);
    if !(1..=MOST_TAGS).contains(&limit) {
        return Err(Problem::invalid("`limit` must be 1 to 1000"));
    }
    let after = after.map_or_else(String::new, |tag| key::tag(&repository, &tag));
    let tags = &api.state.tags;
    let filter = key::tags_of(&repository);
    let entries = tags.list_after(&filter, &after, limit).await?;
    let tags = entries.into_iter().map(|entry| entry.value.into());
    Ok(Json(tags.collect()))
}

/// Shows everything that is known of an image.
#[utoipa::path(get, path = "/api/v1/images/{image}", tag = "images",
    params(("image" = String, Path, description = "as in `hub/alpine:3.20`")),
    responses((status = 200, body = ImageState), (status = "default", body = ProblemBody)))]
pub(super) async fn show(
    Extract(api): Extract<Api>,
    image: Given<String>,
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
        .ok_or_else(|| Problem::missing(format!("the tag `{}:{tag}`", image.repository)))?
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
