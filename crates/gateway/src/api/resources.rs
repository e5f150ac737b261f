//! Lists, shows, applies and removes resources, with the checks of `sluice apply`.

use axum::Json;
use axum::extract::State as Extract;
use axum::extract::rejection::StringRejection;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sluice_domain::ResourceName;
use sluice_domain::resources::Kind;
use sluice_events::subject;
use sluice_events::time_from_wire;
use sluice_events::wire::state as wire;
use sluice_state::{Entry, key};
use utoipa::ToSchema;

use super::conflicts::find_conflicts;
use super::problem::{Problem, ProblemBody};
use super::{ACTOR, Api, PathParameter};

/// A resource as it is stored.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct StoredResource {
    /// The kind of the resource, as in `Mirror`.
    kind: String,
    /// The name of the resource.
    name: String,
    /// The revision, which grows with every change of any resource.
    revision: u64,
    /// When the resource was applied.
    #[schema(value_type = Option<String>, format = DateTime)]
    applied_at: Option<DateTime<Utc>>,
    /// The actor that applied it.
    applied_by: String,
    /// The resource as applied, with defaults.
    #[schema(value_type = Object)]
    spec: Value,
}

/// The result of applying a resource.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AppliedResource {
    /// Whether anything changed.
    changed: bool,
}

impl StoredResource {
    fn of(entry: Entry<wire::Resource>) -> Self {
        let value = entry.value;
        Self {
            spec: serde_json::from_str(&value.json).unwrap_or_default(),
            kind: value.kind,
            name: value.name,
            revision: entry.revision,
            applied_at: time_from_wire(value.applied_at.as_ref()),
            applied_by: value.applied_by,
        }
    }
}

/// Lists the resources of a kind.
#[utoipa::path(get, path = "/api/v1/resources/{kind}", tag = "resources",
    params(("kind" = String, Path, description = "as in `mirror` or `mirrors`")),
    responses((status = 200, body = [StoredResource]), (status = "default", body = ProblemBody)))]
pub(super) async fn list(
    Extract(api): Extract<Api>,
    kind: PathParameter<String>,
) -> Result<Json<Vec<StoredResource>>, Problem> {
    let kind: Kind = kind?.parse().map_err(Problem::invalid)?;
    let filter = format!("{}.*", subject::encode(kind.as_str()));
    let entries = api.state.resources.list(&filter).await?;
    Ok(Json(entries.into_iter().map(StoredResource::of).collect()))
}

/// Shows a resource.
#[utoipa::path(get, path = "/api/v1/resources/{kind}/{name}", tag = "resources",
    params(("kind" = String, Path), ("name" = String, Path, description = "may hold `/` and `*`")),
    responses((status = 200, body = StoredResource), (status = "default", body = ProblemBody)))]
pub(super) async fn show(
    Extract(api): Extract<Api>,
    path: PathParameter<(String, String)>,
) -> Result<Json<StoredResource>, Problem> {
    let (kind, name) = parse_path(path)?;
    let entry = api
        .state
        .resources
        .get(&key::resource(kind.as_str(), &name))
        .await?
        .ok_or_else(|| Problem::missing(format!("{kind} `{name}`")))?;
    Ok(Json(StoredResource::of(entry)))
}

/// Applies a resource: one YAML or JSON document, as for `sluice apply`.
#[utoipa::path(put, path = "/api/v1/resources/{kind}/{name}", tag = "resources",
    params(("kind" = String, Path), ("name" = String, Path, description = "may hold `/` and `*`")),
    request_body(content = String, content_type = "application/yaml"),
    responses((status = 200, body = AppliedResource), (status = "default", body = ProblemBody)))]
pub(super) async fn apply(
    Extract(api): Extract<Api>,
    path: PathParameter<(String, String)>,
    body: Result<String, StringRejection>,
) -> Result<Json<AppliedResource>, Problem> {
    let (kind, name) = parse_path(path)?;
    let text = body.map_err(|_| Problem::Body)?;
    let documents =
        sluice_policy::check::load(&text).map_err(|problems| Problem::Resource { problems })?;
    let problems = find_conflicts(&api.state, &documents).await?;
    if !problems.is_empty() {
        return Err(Problem::Resource { problems });
    }
    let [document] = documents.as_slice() else {
        return Err(Problem::Mismatch);
    };
    let resource = &document.resource;
    if (resource.kind(), resource.name()) != (kind, &name) {
        return Err(Problem::Mismatch);
    }
    let changed = api.state.apply(&api.bus, resource, ACTOR).await?;
    Ok(Json(AppliedResource { changed }))
}

/// Removes a resource.
#[utoipa::path(delete, path = "/api/v1/resources/{kind}/{name}", tag = "resources",
    params(("kind" = String, Path), ("name" = String, Path, description = "may hold `/` and `*`")),
    responses((status = 204, description = "the resource was removed"), (status = "default", body = ProblemBody)))]
pub(super) async fn remove(
    Extract(api): Extract<Api>,
    path: PathParameter<(String, String)>,
) -> Result<StatusCode, Problem> {
    let (kind, name) = parse_path(path)?;
    if api.state.remove(&api.bus, kind, &name, ACTOR).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::missing(format!("{kind} `{name}`")))
}

fn parse_path(path: PathParameter<(String, String)>) -> Result<(Kind, ResourceName), Problem> {
    let (kind, name) = path?.0;
    Ok((
        kind.parse().map_err(Problem::invalid)?,
        name.parse().map_err(Problem::invalid)?,
    ))
}
