//! When a policy's answer to an image changes although nothing but the time does.

use std::mem::discriminant;

use chrono::{DateTime, Utc};
use sluice_domain::resources::PromotionPolicy;

use super::{Candidate, compiled, decide_outcome};

/// How long an answer is left at least, in seconds: a condition may come to another one every second.
const SOONEST: i64 = 60;
/// For so long each hour is looked at, in seconds: a condition may speak of the hour of the day.
const HOURLY: i64 = 2 * 86_400;
const HOUR: i64 = 3_600;
/// How far ahead is looked, in seconds; conditions take no longer durations.
const LATEST: i64 = 3_660 * 86_400;

/// Says whether the condition of a policy may come to another result with the time alone.
#[must_use]
pub fn depends_on_time(policy: &PromotionPolicy) -> bool {
    match compiled(policy) {
        Ok(Some(condition)) => condition.names("now") || condition.names("scan.age"),
        Ok(None) | Err(_) => false,
    }
}

/// Returns the second from which on a policy answers otherwise, if nothing but the time changes.
///
/// Found are answers that last: those of the next two days for an hour, later ones for the longer the later they come.
#[must_use]
pub fn changes_at(policy: &PromotionPolicy, candidate: &Candidate) -> Option<DateTime<Utc>> {
    if !depends_on_time(policy) {
        return None;
    }
    let mut later = candidate.clone();
    let mut answer = |time: DateTime<Utc>| {
        later.decided_at = time;
        discriminant(&decide_outcome(policy, &later).0)
    };
    let now = answer(candidate.decided_at);
    let began = candidate.decided_at.timestamp();
    let at = |second: i64| DateTime::from_timestamp(began.saturating_add(second), 0);
    let (mut same, mut other) = (0, SOONEST);
    while answer(at(other)?) == now {
        if other > LATEST {
            return None;
        }
        same = other;
        other += if other < HOURLY { HOUR } else { other / 4 };
    }
    while other - same > 1 {
        let middle = same + (other - same) / 2;
        if answer(at(middle)?) == now {
            same = middle;
        } else {
            other = middle;
        }
    }
    at(other.max(SOONEST))
}
