//! Events as server-sent events, for programs without a NATS client.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State as Extract};
use axum::http::HeaderMap;
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use futures_util::{Stream, StreamExt as _, stream};
use serde::Deserialize;
use sluice_bus::{Fact, FollowFrom, LogPosition};
use sluice_events::subject;

use super::Api;
use super::problem::{Problem, ProblemBody};

/// How long a response lasts: shorter than the limit of a request. The client continues with its last position.
const RESPONSE_LIMIT: Duration = Duration::from_secs(50);
/// How long a client waits before it continues.
const RECONNECT_DELAY: Duration = Duration::from_millis(200);
/// The header in which a client that continues sends its last position.
const LAST_EVENT_ID: &str = "last-event-id";

/// Which events to send.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventQuery {
    /// The subject filter.
    #[serde(default)]
    subject: Option<String>,
    /// The position after which to begin, or `start`.
    #[serde(default)]
    after: Option<String>,
}

/// Streams events as they are published.
#[utoipa::path(get, path = "/api/v1/events", tag = "events",
    description = "Server-sent events: `data` is the event as JSON, `id` its position in the log. A response ends after 50 s; \
        a client continues by sending the last `id` as `Last-Event-ID`, as browsers and SSE libraries do by themselves.",
    params(
        ("subject" = Option<String>, Query, description = "Subject filter, as in `sluice.v1.image.>`; by default all events."),
        ("after" = Option<String>, Query, description = "Position after which to begin, or `start` for the oldest event; by default now."),
        ("Last-Event-ID" = Option<String>, Header, description = "Position after which to continue; it goes before `after`."),
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = "default", body = ProblemBody),
    ))]
pub(super) async fn follow(
    Extract(api): Extract<Api>,
    headers: HeaderMap,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<Message, Infallible>> + use<>>, Problem> {
    let Query(query) = query.map_err(Problem::invalid)?;
    let filter = query.subject.unwrap_or_else(|| subject::FACTS.to_owned());
    if !is_event_filter(&filter) {
        return Err(Problem::invalid(format!(
            "`{filter}` matches no event; write for example `sluice.v1.image.>`"
        )));
    }
    let last = headers.get(LAST_EVENT_ID).map(|id| id.to_str());
    let last = last.transpose().map_err(Problem::invalid)?;
    let end = api.bus.log_position(&filter).await?;
    let (from, mut position) = match last.or(query.after.as_deref()) {
        Some("start") => (FollowFrom::Start, LogPosition::default()),
        asked => {
            let position = asked
                .map(str::parse)
                .transpose()
                .map_err(Problem::invalid)?;
            let position: LogPosition = position.unwrap_or_else(|| end.clone());
            // Events would be left out until the log is as long again.
            if position.is_after(&end) {
                return Err(Problem::invalid(format!(
                    "`{position}` is after the end of the log, `{end}`: an older log was restored; begin with `after=start`"
                )));
            }
            (FollowFrom::After(position.clone()), position)
        }
    };
    let facts = api.bus.follow(&filter, &from).await?;
    // A message without data sets the position of a client that gets no event before it has to continue.
    let first = Message::default()
        .id(position.to_string())
        .retry(RECONNECT_DELAY);
    let messages = facts
        .take_while(|fact| {
            if let Err(error) = fact {
                tracing::warn!(%error, "a stream of events ended; its client continues");
            }
            std::future::ready(fact.is_ok())
        })
        .filter_map(|fact| std::future::ready(fact.ok()))
        .map(move |fact| message(&fact, &mut position));
    let ended = api.stopping.cancelled_owned();
    let messages = stream::iter([first])
        .chain(messages)
        .map(Ok)
        .take_until(tokio::time::timeout(RESPONSE_LIMIT, ended));
    Ok(Sse::new(messages).keep_alive(KeepAlive::default()))
}

/// Returns the message of an event, with the position after it.
fn message(fact: &Fact, position: &mut LogPosition) -> Message {
    position.advance(fact.stream, fact.sequence);
    let name = fact.event.as_ref().map_or("unknown", |event| event.name());
    Message::default()
        .id(position.to_string())
        .event(name)
        .data(fact.to_json().to_string())
}

/// Says whether a subject filter is well-formed and of events.
fn is_event_filter(filter: &str) -> bool {
    let mut tokens = filter.split('.');
    let is_of_events = (tokens.next(), tokens.next()) == (Some("sluice"), Some("v1"));
    let rest: Vec<&str> = tokens.collect();
    let is_last = |index: usize| index + 1 == rest.len();
    is_of_events
        && !rest.is_empty()
        && rest.iter().enumerate().all(|(index, token)| match *token {
            ">" => is_last(index),
            "*" => true,
            text => {
                !text.is_empty()
                    && !text
                        .contains(|c: char| c.is_whitespace() || c.is_control() || "*>".contains(c))
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_filters_of_events_are_followed() {
        for filter in [
            "sluice.v1.>",
            "sluice.v1.image.>",
            "sluice.v1.*.pushed.hub.app",
        ] {
            assert!(is_event_filter(filter), "{filter}");
        }
        for filter in [
            "",
            ">",
            "sluice.>",
            "sluice.v1",
            "sluice.v1.",
            "sluice.v1..a",
            "sluice.v1.>.a",
            "sluice.v1.a b",
            "sluice.v1.a>",
            "sluice.do.poll.a",
            "$JS.API.>",
        ] {
            assert!(!is_event_filter(filter), "{filter}");
        }
    }
}
