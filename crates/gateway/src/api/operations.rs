//! The status of the installation, and commands to its stages.

use std::collections::HashSet;

use axum::Json;
use axum::extract::State as Extract;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::Serialize;
use sluice_bus::Cause;
use sluice_domain::ResourceName;
use sluice_domain::resources::Kind;
use sluice_events::commands::PollMirror;
use sluice_events::subject;
use sluice_events::time_from_wire;
use utoipa::ToSchema;

use super::problem::{Problem, ProblemBody};
use super::{Api, PathParameter};

/// The most dead letters that are counted.
const MAX_DEAD_LETTERS: usize = 10_000;

/// The status of the installation.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    /// The reason for the pause of promotion and deletion, if they are paused.
    paused: Option<String>,
    /// The stages without a running process.
    stopped: Vec<&'static str>,
    /// The backlog of each stage.
    stages: Vec<StageBacklog>,
    /// The last poll of each mirror.
    mirrors: Vec<MirrorPoll>,
    /// The number of dead letters, at most 10,000.
    dead_letters: usize,
}

/// The backlog of a stage in one stream.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct StageBacklog {
    /// The stage.
    stage: &'static str,
    /// The stream.
    stream: &'static str,
    /// Messages that are not delivered yet.
    waiting: u64,
    /// Messages that are being processed, or wait for a retry.
    in_flight: u64,
    /// Messages that are scheduled for a later attempt.
    later: u64,
}

/// The last poll of a mirror.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct MirrorPoll {
    /// The mirror.
    mirror: String,
    /// When the poll ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    polled_at: Option<DateTime<Utc>>,
    /// How many polls failed in a row; 0 after a success.
    failures: u64,
    /// The reason of the failure.
    reason: String,
    /// How many tags were selected.
    tags_selected: u64,
}

/// A published command.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CommandGiven {
    /// The id of the command, which is the cause of the events that follow.
    id: String,
}

/// Shows the status of the installation.
#[utoipa::path(get, path = "/api/v1/status", tag = "operations",
    responses((status = 200, body = Status), (status = "default", body = ProblemBody)))]
pub(super) async fn status(Extract(api): Extract<Api>) -> Result<Json<Status>, Problem> {
    let stages = api.bus.stage_status().await?;
    let stopped = api.bus.stopped_stages(&stages).await?;
    let (pause, _) = api.state.pause_and_restore().await?;
    let filter = format!("{}.*", subject::encode(Kind::Mirror.as_str()));
    let mirrors = api.state.resources.list(&filter).await?;
    let mirrors: HashSet<_> = mirrors.into_iter().map(|entry| entry.value.name).collect();
    let mut polls = api.state.polls.list("*").await?;
    // The record of the last poll outlives its mirror.
    polls.retain(|poll| mirrors.contains(&poll.value.mirror));
    let dead_letters = api.bus.dead_letters(MAX_DEAD_LETTERS).await?.len();
    Ok(Json(Status {
        paused: pause.map(|pause| pause.reason),
        stopped,
        stages: stages
            .into_iter()
            .map(|status| StageBacklog {
                stage: status.stage,
                stream: status.stream,
                waiting: status.waiting,
                in_flight: status.in_flight,
                later: status.later,
            })
            .collect(),
        mirrors: polls
            .into_iter()
            .map(|poll| MirrorPoll {
                polled_at: time_from_wire(poll.value.polled_at.as_ref()),
                mirror: poll.value.mirror,
                failures: poll.value.failures,
                reason: poll.value.reason,
                tags_selected: poll.value.tags_selected,
            })
            .collect(),
        dead_letters,
    }))
}

/// Polls a mirror.
#[utoipa::path(post, path = "/api/v1/mirrors/{name}/poll", tag = "operations",
    params(("name" = String, Path, description = "the mirror")),
    responses((status = 202, body = CommandGiven), (status = "default", body = ProblemBody)))]
pub(super) async fn poll(
    Extract(api): Extract<Api>,
    name: PathParameter<String>,
) -> Result<(StatusCode, Json<CommandGiven>), Problem> {
    let mirror: ResourceName = name?.parse().map_err(Problem::invalid)?;
    if !api.state.has_resource(Kind::Mirror, &mirror).await? {
        return Err(Problem::missing(format!("Mirror `{mirror}`")));
    }
    let command = PollMirror {
        mirror,
        urgent: true,
    };
    let given = api.bus.command(&command.into(), &Cause::root()).await?;
    let id = given.id.to_string();
    Ok((StatusCode::ACCEPTED, Json(CommandGiven { id })))
}
