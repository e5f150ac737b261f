//! Message headers: writing and reading them, trace context, and which of them a copy of a message keeps.

use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use sluice_events::headers;
use sluice_telemetry::context;
use tracing::Span;

use super::backend::Headers;

/// Attempts that were made before this copy of the message.
pub(crate) const ATTEMPTS: &str = "sluice-attempts";
/// How many times this message was delayed because of an outage or a quota.
pub(crate) const WAITS: &str = "sluice-waits";
/// Why the message was delayed last.
pub(crate) const WAITS_FOR: &str = "sluice-waits-for";
/// The occurrence of the original message.
pub(crate) const OCCURRENCE: &str = "sluice-occurrence";
/// The error for which a message became a dead letter.
pub(crate) const DEAD_REASON: &str = "sluice-dead-reason";
/// The subject on which a dead letter had been delivered.
pub(crate) const DEAD_SUBJECT: &str = "sluice-dead-subject";
/// The attempts that were made before a message became a dead letter.
pub(crate) const DEAD_ATTEMPTS: &str = "sluice-dead-attempts";

/// Reads a header, decoded; names are matched without case, as the CloudEvents binding asks.
pub(crate) fn header(map: Option<&HeaderMap>, name: &str) -> Option<String> {
    let (_, values) = map?.iter().find(|(key, _)| {
        let key: &str = (*key).as_ref();
        key.eq_ignore_ascii_case(name)
    })?;
    headers::decode(values.first()?.as_str())
}

/// Sets a header; its value is encoded, so that no text breaks the line.
pub(crate) fn set(map: &mut HeaderMap, name: &str, value: &str) {
    if let Ok(value) = headers::encode(value).parse::<HeaderValue>() {
        map.insert(name, value);
    }
}

/// Copies the headers whose lower-case names are wanted, never those of NATS itself: the server would obey them again.
pub(crate) fn copy_headers(map: Option<&HeaderMap>, wanted: impl Fn(&str) -> bool) -> HeaderMap {
    let mut copy = HeaderMap::new();
    for (name, values) in map.into_iter().flat_map(HeaderMap::iter) {
        let text: &str = name.as_ref();
        let text = text.to_ascii_lowercase();
        if text.starts_with("nats-") || !wanted(&text) {
            continue;
        }
        for value in values {
            copy.append(name.clone(), value.clone());
        }
    }
    copy
}

/// Writes the trace context of the current span into headers.
pub(crate) fn inject_trace_context(map: &mut HeaderMap) {
    context::inject(&mut |name, value| set(map, name, &value));
}

/// Makes a span, not yet entered, continue the trace of a message.
pub(crate) fn continue_trace(span: &Span, map: &HeaderMap) {
    context::set_parent(span, &|name: &str| Some(map.get(name)?.as_str()));
}

/// Links a span that begins a new trace to the trace of a message.
pub(crate) fn link_trace(span: &Span, map: &HeaderMap) {
    context::link(span, &|name: &str| Some(map.get(name)?.as_str()));
}

pub(crate) fn to_map(headers: &[(String, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        if let Ok(value) = value.parse::<HeaderValue>() {
            map.append(name.as_str(), value);
        }
    }
    map
}

pub(crate) fn from_map(map: &HeaderMap) -> Headers {
    let all = map.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values
            .iter()
            .map(move |value| (name.to_owned(), value.as_str().to_owned()))
    });
    let mut headers: Headers = all.collect();
    headers.sort();
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_no_headers_of_the_server() {
        let mut map = HeaderMap::new();
        for name in ["Nats-Rollup", "nats-schedule", "ce-id", ATTEMPTS] {
            set(&mut map, name, "a b");
        }
        let copy = copy_headers(Some(&map), |name| name != ATTEMPTS);
        let names: Vec<&str> = copy.iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(names, ["ce-id"]);
        assert_eq!(header(Some(&copy), "CE-ID").as_deref(), Some("a b"));
    }
}
