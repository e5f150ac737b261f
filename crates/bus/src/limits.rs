//! How large each stream, bucket and object store may become, and what happens then.

use std::fmt;
use std::str::FromStr;

use async_nats::jetstream::stream::DiscardPolicy;
use thiserror::Error;

use crate::topology::{AUDIT, BACKUP_ORDER, DEAD_LETTERS, EVENTS, PULLS, STAGES, WORK};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The least that a stream may be given, in bytes: a message of the largest size has to fit.
const LEAST: u64 = 2 * MIB;

/// Says whether a stream drops what is oldest when it is full.
///
/// Facts may go: a stage that had not seen one notices, and searches. Nothing else may go in silence: whoever writes
/// gets an error, waits and tries again, as for a full disk.
pub(crate) fn drops_oldest(stream: &str) -> bool {
    [EVENTS, PULLS].contains(&stream)
}

/// Returns what the server does when a stream is full. In a stream with schedules it can refuse nothing, so whoever
/// writes there asks for room first (`room.rs`).
pub(crate) fn when_full(stream: &str) -> DiscardPolicy {
    if drops_oldest(stream) || has_schedules(stream) {
        DiscardPolicy::Old
    } else {
        DiscardPolicy::New
    }
}

fn has_schedules(stream: &str) -> bool {
    STAGES.iter().any(|stage| stage.schedules == stream)
}

/// Returns how large a stream may become unless a person says otherwise, in bytes.
fn default_of(stream: &str) -> u64 {
    match stream {
        EVENTS | AUDIT | "OBJ_reports" => 4 * GIB,
        PULLS => 256 * MIB,
        WORK | DEAD_LETTERS => 512 * MIB,
        "KV_upstream" | "KV_tags" | "KV_images" | "KV_verdicts" | "KV_decisions"
        | "KV_deliveries" => GIB,
        _ if has_schedules(stream) => 128 * MIB,
        _ => 64 * MIB,
    }
}

/// The most bytes of each stream of the topology, buckets and object stores among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamLimits([Option<u64>; BACKUP_ORDER.len()]);

/// A limit that cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InvalidLimit {
    /// There is no such stream.
    #[error("there is no stream `{0}`; streams are {list}", list = BACKUP_ORDER.join(", "))]
    Stream(String),
    /// It is no size.
    #[error("`{0}` is no size of {least} or more, as in `512MiB` or `4GiB`", least = Size(LEAST))]
    Size(String),
    /// It is not a name and a size.
    #[error("`{0}` is no limit; write for example `EVENTS=8GiB`")]
    Form(String),
}

impl StreamLimits {
    /// Sets the limit of one stream, as in `EVENTS=8GiB`.
    ///
    /// # Errors
    /// A stream that is not in the topology, or a size that is none.
    pub fn set(&mut self, limit: &str) -> Result<(), InvalidLimit> {
        let (name, size) = limit
            .split_once('=')
            .ok_or_else(|| InvalidLimit::Form(limit.to_owned()))?;
        let Size(bytes) = size.parse()?;
        let place = BACKUP_ORDER.iter().position(|known| *known == name.trim());
        let place = place.and_then(|place| self.0.get_mut(place));
        *place.ok_or_else(|| InvalidLimit::Stream(name.to_owned()))? = Some(bytes);
        Ok(())
    }

    /// Returns the limit that a person set.
    pub(crate) fn set_for(&self, stream: &str) -> Option<u64> {
        let place = BACKUP_ORDER.iter().position(|known| *known == stream)?;
        self.0.get(place).copied().flatten()
    }

    /// Returns the limit of a stream that has `now` as its limit, if any, and holds `held` bytes.
    ///
    /// What nobody sets stays as it is. A stream without a limit gets one that is at least twice what it holds, so that
    /// an update neither throws anything away nor stops anything.
    pub(crate) fn resolve(&self, stream: &str, now: Option<u64>, held: u64) -> u64 {
        self.set_for(stream)
            .or(now)
            .unwrap_or_else(|| default_of(stream).max(held.saturating_mul(2)))
    }
}

/// A number of bytes, as in `4GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
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
            .filter(|bytes| (LEAST..=i64::MAX.unsigned_abs()).contains(bytes))
            .map(Self)
            .ok_or_else(invalid)
    }
}

impl fmt::Display for Size {
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
        assert_eq!(Size(8 * GIB).to_string(), "8GiB");
    }

    #[test]
    fn an_update_never_takes_room_away_that_nobody_named() {
        let mut limits = StreamLimits::default();
        assert_eq!(limits.resolve(EVENTS, None, 0), 4 * GIB);
        assert_eq!(limits.resolve(EVENTS, None, 10 * GIB), 20 * GIB);
        assert_eq!(limits.resolve(EVENTS, Some(50 * GIB), 0), 50 * GIB);
        limits.set("EVENTS=5GiB").unwrap();
        assert_eq!(limits.resolve(EVENTS, Some(50 * GIB), 0), 5 * GIB);
    }
}
