//! The ledger of an account: what is free, what is granted, and who goes first. Pure; the caller writes it.
//!
//! Never is more granted than was free, and what is free grows only by what the registry says it has left, less what
//! is granted: so all processes together fetch no more than that, whatever order they write in.

use chrono::{DateTime, TimeDelta, Utc};
use sluice_events::wire::state::{Budget, Grant};
use sluice_events::{time_from_wire, time_to_wire};
use sluice_registry::RateLimit;

/// How many pulls a process gets at once.
const PULLS: u64 = 5;
/// How long it may spend them.
const LIFE: TimeDelta = TimeDelta::seconds(20);
/// How much longer what it began with them may be under way.
const GRACE: TimeDelta = TimeDelta::seconds(30);
/// The registry is asked what is left so many times in a window, once nothing is.
const LOOKS: u64 = 24;
const SOONEST: TimeDelta = TimeDelta::seconds(1);
const LATEST: TimeDelta = TimeDelta::minutes(15);
/// When a registry that limits nothing is asked again.
const UNLIMITED: TimeDelta = TimeDelta::hours(1);
/// How much longer than to the next look a person's work goes first.
const FIRST: TimeDelta = TimeDelta::seconds(5);

/// Who asks for pulls.
#[derive(Debug, Clone)]
pub(super) struct Request<'a> {
    /// The process.
    pub(super) holder: &'a str,
    /// Pulls of it that are under way.
    pub(super) under_way: u64,
    /// What background work leaves to people.
    pub(super) reserve: u64,
    /// A person waits for it.
    pub(super) is_urgent: bool,
    /// The least that an answer to this process named as left since its last request.
    pub(super) seen: Option<u64>,
    /// What the registry said when it was asked, if nobody has changed the ledger since.
    pub(super) asked: Option<Option<RateLimit>>,
    /// The time.
    pub(super) now: DateTime<Utc>,
}

/// What comes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Taken {
    /// The registry limits nothing.
    Unlimited,
    /// So many pulls may be spent until then.
    Granted { pulls: u64, until: DateTime<Utc> },
    /// The registry is to be asked what is left.
    Ask,
    /// Nothing is to be spent until then.
    Wait(DateTime<Utc>),
}

/// Takes pulls out of a ledger, which has changed after that unless the registry is to be asked.
pub(super) fn take(ledger: &mut Budget, request: &Request<'_>) -> Taken {
    let now = request.now;
    // What the process had is over; only what it has under way may not be counted by the registry yet.
    ledger.grants.retain(|grant| {
        let until = time_from_wire(grant.until.as_ref()).unwrap_or_default();
        grant.holder != request.holder && until + GRACE > now
    });
    ledger.reserve = request.reserve;
    match (request.asked, request.seen) {
        (Some(said), _) => learn(ledger, said, request.under_way, now),
        (None, Some(seen)) => ledger.free = ledger.free.min(seen),
        (None, None) => {}
    }
    if let Some(until) = later(time_from_wire(ledger.pulls_paused_until.as_ref()), now) {
        return Taken::Wait(until);
    }
    let told_at = time_from_wire(ledger.told_at.as_ref());
    let Some(told_at) = told_at.filter(|at| ledger.limit > 0 || *at + UNLIMITED > now) else {
        return Taken::Ask;
    };
    if ledger.limit == 0 {
        return Taken::Unlimited;
    }
    if let (false, Some(until)) = (
        request.is_urgent,
        later(time_from_wire(ledger.person_waits_until.as_ref()), now),
    ) {
        return Taken::Wait(until);
    }
    let kept = if request.is_urgent {
        0
    } else {
        request.reserve
    };
    let room = ledger.free.saturating_sub(kept);
    if room == 0 {
        let next = told_at + interval(ledger.window_seconds);
        if next <= now && request.asked.is_none() {
            return Taken::Ask;
        }
        let next = next.max(now + SOONEST);
        if request.is_urgent {
            ledger.person_waits_until = Some(time_to_wire(next + FIRST));
        }
        keep_under_way(ledger, request);
        return Taken::Wait(next);
    }
    if request.is_urgent {
        ledger.person_waits_until = None;
    }
    let pulls = room.min(if request.is_urgent { 1 } else { PULLS });
    ledger.free -= pulls;
    let until = now + LIFE;
    ledger.grants.push(Grant {
        holder: request.holder.to_owned(),
        pulls: pulls + request.under_way,
        until: Some(time_to_wire(until)),
    });
    Taken::Granted { pulls, until }
}

/// Takes over what the registry says; what is granted or under way may still come off it.
pub(super) fn learn(
    ledger: &mut Budget,
    said: Option<RateLimit>,
    under_way: u64,
    now: DateTime<Utc>,
) {
    let said = said.filter(|said| said.limit > 0);
    let granted: u64 = ledger.grants.iter().map(|grant| grant.pulls).sum();
    ledger.limit = said.map_or(0, |said| said.limit);
    ledger.window_seconds = said.map_or(0, |said| said.window.as_secs());
    ledger.free = said.map_or(0, |said| {
        said.remaining
            .saturating_sub(granted.saturating_add(under_way))
    });
    ledger.told_at = Some(time_to_wire(now));
}

fn keep_under_way(ledger: &mut Budget, request: &Request<'_>) {
    if request.under_way > 0 {
        ledger.grants.push(Grant {
            holder: request.holder.to_owned(),
            pulls: request.under_way,
            until: Some(time_to_wire(request.now)),
        });
    }
}

/// Returns a time that is still to come.
pub(super) fn later(at: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    at.filter(|at| *at > now)
}

fn interval(window_seconds: u64) -> TimeDelta {
    let seconds = i64::try_from(window_seconds / LOOKS).unwrap_or(i64::MAX);
    TimeDelta::try_seconds(seconds).map_or(LATEST, |interval| interval.clamp(SOONEST, LATEST))
}

#[cfg(test)]
mod tests;
