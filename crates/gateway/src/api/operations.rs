//! How the installation does, and commands to its stages.

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
use sluice_events::subject::token;
use sluice_events::time_from_wire;
use sluice_state::key;
use utoipa::ToSchema;

use super::problem::{Problem, ProblemBody};
use super::{Api, Given};

/// The most dead letters that are counted.
const MOST_LETTERS: usize = 10_000;

/// How the installation does.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    /// Why promotion and deletion wait, if they do.
    paused: Option<String>,
    /// The stages of which no process asks for work.
    stopped: Vec<&'static str>,
    /// The backlog of each stage.
    stages: Vec<StageBacklog>,
    /// The last poll of each mirror.
    mirrors: Vec<MirrorPoll>,
    /// How much could not be done; counted up to 10,000.
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
    /// Messages that nobody has taken up yet.
    waiting: u64,
    /// Messages being worked on, or waiting to be tried again.
    in_flight: u64,
    /// Messages that are kept for a later attempt.
    later: u64,
}

/// How the last poll of a mirror went.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct MirrorPoll {
    /// The mirror.
    mirror: String,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    polled_at: Option<DateTime<Utc>>,
    /// How many failed in a row; 0 after a success.
    failures: u64,
    /// What went wrong.
    reason: String,
    /// How many tags were selected.
    tags_selected: u64,
}

/// A command that was given.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CommandGiven {
    /// Its id, the cause of what comes of it.
    id: String,
}

/// Shows how the installation does.
#[utoipa::path(get, path = "/api/v1/status", tag = "operations",
    responses((status = 200, body = Status), (status = "default", body = ProblemBody)))]
pub(super) async fn status(Extract(api): Extract<Api>) -> Result<Json<Status>, Problem> {
    let stages = api.bus.stage_status().await?;
    let stopped = api.bus.stopped_stages(&stages).await?;
    let (held, _) = api.state.pause_and_restore().await?;
    let filter = format!("{}.*", token(Kind::Mirror.as_str()));
    let mirrors = api.state.resources.list(&filter).await?;
    let mirrors: HashSet<_> = mirrors.into_iter().map(|entry| entry.value.name).collect();
    let mut polls = api.state.polls.list("*").await?;
    // What is remembered of a mirror outlives it.
    polls.retain(|poll| mirrors.contains(&poll.value.mirror));
    let dead_letters = api.bus.dead_letters(MOST_LETTERS).await?.len();
    Ok(Json(Status {
        paused: held.map(|held| held.reason),
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

/// Asks for a poll of a mirror.
#[utoipa::path(post, path = "/api/v1/mirrors/{name}/poll", tag = "operations",
    params(("name" = String, Path, description = "the mirror")),
    responses((status = 202, body = CommandGiven), (status = "default", body = ProblemBody)))]
pub(super) async fn poll(
    Extract(api): Extract<Api>,
    name: Given<String>,
) -> Result<(StatusCode, Json<CommandGiven>), Problem> {
    let mirror: ResourceName = name?.parse().map_err(Problem::invalid)?;
    let key = key::resource(Kind::Mirror.as_str(), &mirror);
    if api.state.resources.get(&key).await?.is_none() {
        return Err(Problem::missing(format!("the Mirror `{mirror}`")));
    }
    let command = PollMirror {
        mirror,
        urgent: true,
    };
    let given = api.bus.command(&command.into(), &Cause::root()).await?;
    let id = given.id.to_string();
    Ok((StatusCode::ACCEPTED, Json(CommandGiven { id })))
}
