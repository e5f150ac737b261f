//! Size limits of streams, buckets and object stores, and what a full one does.

use std::fmt;
use std::str::FromStr;

use async_nats::jetstream::stream::{Config, DiscardPolicy};
use thiserror::Error;

use crate::topology::{
    AUDIT, DEAD_LETTERS, EVENTS, PULLS, REPORTS_STREAM, STAGES, STREAM_COUNT, WORK, backup_order,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The smallest limit, in bytes: a message of the largest size has to fit.
const MIN_LIMIT: u64 = 2 * MIB;

/// Says whether a full stream drops its oldest messages.
///
/// Facts may be dropped: a stage that had not processed one notices the gap and reconciles. Other streams reject new
/// messages, and the writer retries as with a full disk.
pub(crate) fn drops_oldest(stream: &str) -> bool {
    [EVENTS, PULLS].contains(&stream)
}

/// Returns what the server does when a stream is full. A stream with schedules cannot reject messages, so clients check
/// its room before they write (`schedule_room.rs`).
pub(crate) fn discard_policy(stream: &str) -> DiscardPolicy {
    if drops_oldest(stream) || has_schedules(stream) {
        DiscardPolicy::Old
    } else {
        DiscardPolicy::New
    }
}

fn has_schedules(stream: &str) -> bool {
    STAGES.iter().any(|stage| stage.schedules == stream)
}

/// Returns the default limit of a stream, in bytes.
fn default_limit(stream: &str) -> u64 {
    match stream {
        EVENTS | AUDIT | REPORTS_STREAM => 4 * GIB,
        PULLS => 256 * MIB,
        WORK | DEAD_LETTERS => 512 * MIB,
        "KV_upstream" | "KV_tags" | "KV_images" | "KV_verdicts" | "KV_decisions"
        | "KV_target_images" | "KV_deliveries" => GIB,
        _ if has_schedules(stream) => 128 * MIB,
        _ => 64 * MIB,
    }
}

/// Returns the limit of a stream, if it has one, in bytes.
pub(crate) fn limit_of(config: &Config) -> Option<u64> {
    u64::try_from(config.max_bytes)
        .ok()
        .filter(|bytes| *bytes > 0)
}

/// The limits that a person sets for streams of the topology, which may be those of buckets and object stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamLimits([Option<u64>; STREAM_COUNT]);

/// A limit that cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidLimit {
    /// The stream is not in the topology.
    #[error("stream `{0}` not found; streams are {list}", list = backup_order().collect::<Vec<_>>().join(", "))]
    Stream(String),
    /// The size is not valid or too small.
    #[error("`{0}` is not a size of at least {min}, as in `512MiB` or `4GiB`", min = ByteSize(MIN_LIMIT))]
    Size(String),
    /// The text is not `NAME=SIZE`.
    #[error("`{0}` is not a limit; write for example `EVENTS=8GiB`")]
    Form(String),
}

impl StreamLimits {
    /// Sets the limit of one stream, as in `EVENTS=8GiB`.
    pub fn set(&mut self, limit: &str) -> Result<(), InvalidLimit> {
        let (name, size) = limit
            .split_once('=')
            .ok_or_else(|| InvalidLimit::Form(limit.to_owned()))?;
        let ByteSize(bytes) = size.parse()?;
        let index = backup_order().position(|stream| stream == name.trim());
        let limit = index.and_then(|index| self.0.get_mut(index));
        *limit.ok_or_else(|| InvalidLimit::Stream(name.to_owned()))? = Some(bytes);
        Ok(())
    }

    /// Returns the limit that a person set.
    pub(crate) fn set_for(&self, stream: &str) -> Option<u64> {
        let index = backup_order().position(|other| other == stream)?;
        self.0.get(index).copied().flatten()
    }

    /// Returns the new limit of a stream that has `current` as its limit, if any, and holds `held` bytes.
    ///
    /// A limit that no person sets stays as it is. A stream without one gets at least twice what it holds, so that an
    /// update neither drops messages nor rejects them.
    pub(crate) fn resolve(&self, stream: &str, current: Option<u64>, held: u64) -> u64 {
        self.set_for(stream)
            .or(current)
            .unwrap_or_else(|| default_limit(stream).max(held.saturating_mul(2)))
    }
}

/// A number of bytes, as in `4GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ByteSize(pub(crate) u64);

impl FromStr for ByteSize {
    type Err = InvalidLimit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidLimit::Size(text.to_owned());
        let trimmed = text.trim();
        let end = trimmed.find(|c: char| !c.is_ascii_digit());
        let (number, unit) = trimmed.split_at(end.unwrap_or(trimmed.len()));
        let unit: u64 = match unit {
            "" => 1,
            "KiB" => 1 << 10,
            "MiB" => MIB,
            "GiB" => GIB,
            "TiB" => 1 << 40,
            _ => return Err(invalid()),
        };
        let bytes = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(unit));
        bytes
            .filter(|bytes| (MIN_LIMIT..=i64::MAX.unsigned_abs()).contains(bytes))
            .map(Self)
            .ok_or_else(invalid)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        for (unit, name) in [(GIB, "GiB"), (MIB, "MiB"), (1 << 10, "KiB")] {
            if bytes >= unit && bytes % unit == 0 {
                return write!(f, "{}{name}", bytes / unit);
            }
        }
        write!(f, "{bytes} bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_names_a_stream_and_a_size() {
        let mut limits = StreamLimits::default();
        for (text, stream, bytes) in [
            ("EVENTS=8GiB", EVENTS, 8 * GIB),
            ("KV_tags=2MiB", "KV_tags", 2 * MIB),
            ("OBJ_reports = 4194304", "OBJ_reports", 4 * MIB),
        ] {
            limits.set(text).unwrap();
            assert_eq!(limits.set_for(stream), Some(bytes), "{text}");
        }
        for text in [
            "EVENTS",
            "EVENTS=",
            "EVENTS=8GB",
            "EVENTS=1MiB",
            "EVENTS=-1",
            "EVENTS=99999999TiB",
            "tags=8GiB",
        ] {
            assert!(limits.set(text).is_err(), "{text}");
        }
        assert_eq!(ByteSize(8 * GIB).to_string(), "8GiB");
    }

    #[test]
    fn an_update_never_lowers_a_limit_by_itself() {
        let mut limits = StreamLimits::default();
        assert_eq!(limits.resolve(EVENTS, None, 0), 4 * GIB);
        assert_eq!(limits.resolve(EVENTS, None, 10 * GIB), 20 * GIB);
        assert_eq!(limits.resolve(EVENTS, Some(50 * GIB), 0), 50 * GIB);
        limits.set("EVENTS=5GiB").unwrap();
        assert_eq!(limits.resolve(EVENTS, Some(50 * GIB), 0), 5 * GIB);
    }
}
