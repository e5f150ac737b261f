//! Headers: how they are written and read, and which of them a copy of a message keeps.

use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use sluice_events::headers;

/// Attempts that were made before this copy of the message.
pub(crate) const ATTEMPTS: &str = "sluice-attempts";
/// How often this message has waited for something that was away.
pub(crate) const WAITS: &str = "sluice-waits";
/// What the message waits for.
pub(crate) const WAITS_FOR: &str = "sluice-waits-for";
/// The occurrence that a copy keeps.
pub(crate) const OCCURRENCE: &str = "sluice-occurrence";
/// Why a dead letter could not be done.
pub(crate) const DEAD_REASON: &str = "sluice-dead-reason";
/// The subject that a dead letter came on.
pub(crate) const DEAD_SUBJECT: &str = "sluice-dead-subject";
/// How often a dead letter was tried.
pub(crate) const DEAD_ATTEMPTS: &str = "sluice-dead-attempts";

/// Reads a header, decoded; names are matched without case, as the CloudEvents binding asks.
pub(crate) fn header(map: Option<&HeaderMap>, name: &str) -> Option<String> {
    let (_, values) = map?.iter().find(|(key, _)| {
        let key: &str = (*key).as_ref();
        key.eq_ignore_ascii_case(name)
    })?;
    headers::decode(values.first()?.as_str())
}

/// Sets a header; its value is encoded, so that no text can break the line.
pub(crate) fn set(map: &mut HeaderMap, name: &str, value: &str) {
    if let Ok(value) = headers::encode(value).parse::<HeaderValue>() {
        map.insert(name, value);
    }
}

/// Copies the headers whose lower-case names are wanted, never the server's own: those would act again.
pub(crate) fn copied(map: Option<&HeaderMap>, wanted: impl Fn(&str) -> bool) -> HeaderMap {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_leave_the_servers_headers_behind() {
        let mut map = HeaderMap::new();
        for name in ["Nats-Rollup", "nats-schedule", "ce-id", ATTEMPTS] {
            set(&mut map, name, "a b");
        }
        let copy = copied(Some(&map), |name| name != ATTEMPTS);
        let names: Vec<&str> = copy.iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(names, ["ce-id"]);
        assert_eq!(header(Some(&copy), "CE-ID").as_deref(), Some("a b"));
    }
}
