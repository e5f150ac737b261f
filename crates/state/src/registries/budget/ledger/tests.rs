//! Several processes reserve pulls of one ledger.

use std::time::Duration;

use super::*;

const LIMIT: u64 = 100;
const RESERVE: u64 = 10;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_000_000 + second, 0).unwrap()
}

fn request(holder: &str, second: i64) -> Request<'_> {
    Request {
        holder,
        in_flight: 0,
        reserve: RESERVE,
        is_urgent: false,
        seen: None,
        asked: None,
        now: at(second),
    }
}

fn limit(remaining: u64) -> Option<Option<RateLimit>> {
    Some(Some(RateLimit {
        limit: LIMIT,
        remaining,
        window: Duration::from_secs(240),
    }))
}

/// A ledger for which the registry named a limit at second 0.
fn ledger_with(remaining: u64) -> Budget {
    let mut ledger = Budget::default();
    record_limit(&mut ledger, limit(remaining).unwrap(), 0, at(0));
    ledger
}

fn granted(reserved: &Reservation) -> u64 {
    match reserved {
        Reservation::Granted { pulls, .. } => *pulls,
        _ => 0,
    }
}

#[test]
fn an_unknown_account_is_asked_for_first() {
    let mut ledger = Budget::default();
    assert_eq!(
        reserve(&mut ledger, &request("a", 0)),
        Reservation::AskRegistry
    );
    let asked = Request {
        asked: limit(50),
        ..request("a", 0)
    };
    assert_eq!(granted(&reserve(&mut ledger, &asked)), PULLS);
    let asked = Request {
        asked: Some(None),
        ..request("a", 0)
    };
    let mut ledger = Budget::default();
    assert_eq!(reserve(&mut ledger, &asked), Reservation::Unlimited);
    assert_eq!(
        reserve(&mut ledger, &request("b", 3_599)),
        Reservation::Unlimited
    );
    assert_eq!(
        reserve(&mut ledger, &request("b", 3_601)),
        Reservation::AskRegistry
    );
}

#[test]
fn all_together_get_the_pulls_that_are_left_less_the_reserve() {
    let mut ledger = ledger_with(LIMIT);
    let mut spent = 0;
    for turn in 0..100 {
        let holder = ["a", "b", "c", "d"][turn % 4];
        spent += granted(&reserve(&mut ledger, &request(holder, 1)));
    }
    assert_eq!(spent, LIMIT - RESERVE);
    assert_eq!(ledger.free, RESERVE);
}

#[test]
fn only_a_person_gets_the_reserve_and_goes_first() {
    let mut ledger = ledger_with(RESERVE + 1);
    assert_eq!(granted(&reserve(&mut ledger, &request("a", 1))), 1);
    assert!(matches!(
        reserve(&mut ledger, &request("a", 1)),
        Reservation::Wait(_)
    ));
    let person = Request {
        is_urgent: true,
        ..request("p", 1)
    };
    for _ in 0..RESERVE {
        assert_eq!(granted(&reserve(&mut ledger, &person)), 1);
    }
    assert!(matches!(
        reserve(&mut ledger, &person),
        Reservation::Wait(_)
    ));
    // Pulls have come back, but the person was told to wait and comes first.
    let more = Request {
        asked: limit(LIMIT),
        ..request("a", 11)
    };
    assert!(matches!(reserve(&mut ledger, &more), Reservation::Wait(_)));
    let person = Request {
        is_urgent: true,
        ..request("p", 11)
    };
    assert_eq!(granted(&reserve(&mut ledger, &person)), 1);
    assert!(granted(&reserve(&mut ledger, &request("a", 11))) > 0);
}

#[test]
fn nothing_is_asked_before_pulls_may_have_come_back() {
    let mut ledger = ledger_with(RESERVE);
    assert_eq!(
        reserve(&mut ledger, &request("a", 1)),
        Reservation::Wait(at(10))
    );
    assert_eq!(
        reserve(&mut ledger, &request("a", 10)),
        Reservation::AskRegistry
    );
    let still = Request {
        asked: limit(RESERVE),
        ..request("a", 10)
    };
    assert_eq!(reserve(&mut ledger, &still), Reservation::Wait(at(20)));
    assert_eq!(
        reserve(&mut ledger, &request("b", 11)),
        Reservation::Wait(at(20))
    );
}

#[test]
fn grants_of_others_and_pulls_in_flight_reduce_what_the_registry_names() {
    let mut ledger = ledger_with(LIMIT);
    reserve(&mut ledger, &request("a", 1));
    reserve(&mut ledger, &request("b", 1));
    let asked = Request {
        asked: limit(50),
        in_flight: 3,
        ..request("a", 2)
    };
    let reserved = granted(&reserve(&mut ledger, &asked));
    assert_eq!(ledger.free + reserved, 50 - PULLS - 3);
    // The grant of a process that died ends after the time that its pulls may be in flight.
    let expired = Request {
        asked: limit(50),
        ..request("c", 2 + 20 + 30)
    };
    let reserved = granted(&reserve(&mut ledger, &expired));
    assert_eq!(ledger.free + reserved, 50);
}

#[test]
fn pulls_by_other_clients_reduce_the_free_ones_at_once() {
    let mut ledger = ledger_with(LIMIT);
    let seen = Request {
        seen: Some(12),
        ..request("a", 1)
    };
    assert_eq!(granted(&reserve(&mut ledger, &seen)), 2);
}

#[test]
fn a_refusal_pauses_all_processes_until_its_end() {
    let mut ledger = ledger_with(LIMIT);
    ledger.pulls_paused_until = Some(time_to_wire(at(60)));
    assert_eq!(
        reserve(&mut ledger, &request("a", 1)),
        Reservation::Wait(at(60))
    );
    assert!(granted(&reserve(&mut ledger, &request("a", 60))) > 0);
}
