//! The ledger of an account: free pulls, granted pulls, and who goes first. Pure; the caller writes it.
//!
//! Never are more pulls granted than were free, and the free ones grow only by what the registry says is left, less the
//! granted ones: so all processes together pull no more than that, in whatever order they write.

use chrono::{DateTime, TimeDelta, Utc};
use sluice_events::wire::state::{Budget, Grant};
use sluice_events::{time_from_wire, time_to_wire};
use sluice_registry::RateLimit;

/// How many pulls a process gets at once.
const PULLS: u64 = 5;
/// How long a process may begin them.
const GRANT_LIFETIME: TimeDelta = TimeDelta::seconds(20);
/// How much longer the pulls that it began may be in flight.
const IN_FLIGHT_GRACE: TimeDelta = TimeDelta::seconds(30);
/// How often in a window the registry is asked once no pull is left.
const CHECKS_PER_WINDOW: u64 = 24;
const MIN_CHECK_INTERVAL: TimeDelta = TimeDelta::seconds(1);
const MAX_CHECK_INTERVAL: TimeDelta = TimeDelta::minutes(15);
/// When a registry without a limit is asked again.
const UNLIMITED_CHECK_INTERVAL: TimeDelta = TimeDelta::hours(1);
/// How long after the next check urgent work still goes first.
const URGENT_FIRST: TimeDelta = TimeDelta::seconds(5);

/// A request for pulls.
#[derive(Debug, Clone)]
pub(super) struct Request<'a> {
    /// The process that asks.
    pub(super) holder: &'a str,
    /// The pulls of the process that are in flight.
    pub(super) in_flight: u64,
    /// The pulls that background work leaves to people.
    pub(super) reserve: u64,
    /// Whether a person waits for the work.
    pub(super) is_urgent: bool,
    /// The least number of pulls that an answer to this process named since its last request.
    pub(super) seen: Option<u64>,
    /// The limit that the registry named when it was asked, if the ledger was not changed since.
    pub(super) asked: Option<Option<RateLimit>>,
    /// The time of the request.
    pub(super) now: DateTime<Utc>,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reservation {
    /// The registry has no limit.
    Unlimited,
    /// So many pulls may begin until then.
    Granted { pulls: u64, until: DateTime<Utc> },
    /// The registry has to be asked how many pulls are left.
    AskRegistry,
    /// No pull may begin until then.
    Wait(DateTime<Utc>),
}

/// Reserves pulls of a ledger. The changed ledger has to be written, unless the registry has to be asked.
pub(super) fn reserve(ledger: &mut Budget, request: &Request<'_>) -> Reservation {
    let now = request.now;
    // The earlier grant of the process ends; only its pulls in flight may not be counted by the registry yet.
    ledger.grants.retain(|grant| {
        let until = time_from_wire(grant.until.as_ref()).unwrap_or_default();
        grant.holder != request.holder && until + IN_FLIGHT_GRACE > now
    });
    ledger.reserve = request.reserve;
    match (request.asked, request.seen) {
        (Some(limit), _) => record_limit(ledger, limit, request.in_flight, now),
        (None, Some(seen)) => ledger.free = ledger.free.min(seen),
        (None, None) => {}
    }
    if let Some(until) = if_future(time_from_wire(ledger.pulls_paused_until.as_ref()), now) {
        return Reservation::Wait(until);
    }
    let reported_at = time_from_wire(ledger.reported_at.as_ref());
    let Some(reported_at) =
        reported_at.filter(|at| ledger.limit > 0 || *at + UNLIMITED_CHECK_INTERVAL > now)
    else {
        return Reservation::AskRegistry;
    };
    if ledger.limit == 0 {
        return Reservation::Unlimited;
    }
    if let (false, Some(until)) = (
        request.is_urgent,
        if_future(time_from_wire(ledger.priority_until.as_ref()), now),
    ) {
        return Reservation::Wait(until);
    }
    let reserved = if request.is_urgent {
        0
    } else {
        request.reserve
    };
    let room = ledger.free.saturating_sub(reserved);
    if room == 0 {
        let next = reported_at + interval(ledger.window_seconds);
        if next <= now && request.asked.is_none() {
            return Reservation::AskRegistry;
        }
        let next = next.max(now + MIN_CHECK_INTERVAL);
        if request.is_urgent {
            ledger.priority_until = Some(time_to_wire(next + URGENT_FIRST));
        }
        keep_in_flight(ledger, request);
        return Reservation::Wait(next);
    }
    if request.is_urgent {
        ledger.priority_until = None;
    }
    let pulls = room.min(if request.is_urgent { 1 } else { PULLS });
    ledger.free -= pulls;
    let until = now + GRANT_LIFETIME;
    ledger.grants.push(Grant {
        holder: request.holder.to_owned(),
        pulls: pulls + request.in_flight,
        until: Some(time_to_wire(until)),
    });
    Reservation::Granted { pulls, until }
}

/// Records the limit that the registry named; granted pulls and those in flight may still reduce it.
pub(super) fn record_limit(
    ledger: &mut Budget,
    limit: Option<RateLimit>,
    in_flight: u64,
    now: DateTime<Utc>,
) {
    let limit = limit.filter(|limit| limit.limit > 0);
    let granted: u64 = ledger.grants.iter().map(|grant| grant.pulls).sum();
    ledger.limit = limit.map_or(0, |limit| limit.limit);
    ledger.window_seconds = limit.map_or(0, |limit| limit.window.as_secs());
    ledger.free = limit.map_or(0, |limit| {
        limit
            .remaining
            .saturating_sub(granted.saturating_add(in_flight))
    });
    ledger.reported_at = Some(time_to_wire(now));
}

fn keep_in_flight(ledger: &mut Budget, request: &Request<'_>) {
    if request.in_flight > 0 {
        ledger.grants.push(Grant {
            holder: request.holder.to_owned(),
            pulls: request.in_flight,
            until: Some(time_to_wire(request.now)),
        });
    }
}

/// Returns a time if it is in the future.
pub(super) fn if_future(at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    at.filter(|at| *at > now)
}

fn interval(window_seconds: u64) -> TimeDelta {
    let seconds = i64::try_from(window_seconds / CHECKS_PER_WINDOW).unwrap_or(i64::MAX);
    TimeDelta::try_seconds(seconds).map_or(MAX_CHECK_INTERVAL, |interval| {
        interval.clamp(MIN_CHECK_INTERVAL, MAX_CHECK_INTERVAL)
    })
}

#[cfg(test)]
mod tests;
