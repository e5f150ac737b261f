//! When the outcome of a policy for an image changes with the time alone.

use std::mem::discriminant;

use chrono::{DateTime, Utc};
use sluice_domain::resources::PromotionPolicy;

use super::candidate::Candidate;
use super::compile::compiled;
use super::evaluate::decide_outcome;

/// How long an outcome is kept at least, in seconds: a condition may come to another one every second.
const SOONEST: i64 = 60;
/// How long each hour is checked, in seconds: a condition may depend on the hour of the day.
const HOURLY: i64 = 2 * 86_400;
const HOUR: i64 = 3_600;
/// How far ahead is checked, in seconds; conditions take no longer durations.
const LATEST: i64 = 3_660 * 86_400;

/// Says whether the condition of a policy may come to another result with the time alone.
#[must_use]
pub fn depends_on_time(policy: &PromotionPolicy) -> bool {
    match compiled(policy) {
        Ok(Some(condition)) => condition.names("now") || condition.names("scan.age"),
        Ok(None) | Err(_) => false,
    }
}

/// Returns the second from which on the outcome of a policy is another one, if nothing but the time changes.
///
/// Only outcomes that last are found: in the next two days those that last an hour, and later the longer ones the later
/// they begin.
#[must_use]
pub fn changes_at(policy: &PromotionPolicy, candidate: &Candidate) -> Option<DateTime<Utc>> {
    if !depends_on_time(policy) {
        return None;
    }
    let mut later = candidate.clone();
    let mut outcome_at = |time: DateTime<Utc>| {
        later.decided_at = time;
        discriminant(&decide_outcome(policy, &later).0)
    };
    let now = outcome_at(candidate.decided_at);
    let began = candidate.decided_at.timestamp();
    let at = |second: i64| DateTime::from_timestamp(began.saturating_add(second), 0);
    let (mut same, mut other) = (0, SOONEST);
    while outcome_at(at(other)?) == now {
        if other > LATEST {
            return None;
        }
        same = other;
        other += if other < HOURLY { HOUR } else { other / 4 };
    }
    while other - same > 1 {
        let middle = same + (other - same) / 2;
        if outcome_at(at(middle)?) == now {
            same = middle;
        } else {
            other = middle;
        }
    }
    at(other.max(SOONEST))
}
