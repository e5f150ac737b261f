//! Several processes take pulls out of one ledger.

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
        under_way: 0,
        reserve: RESERVE,
        is_urgent: false,
        seen: None,
        asked: None,
        now: at(second),
    }
}

fn said(remaining: u64) -> Option<Option<RateLimit>> {
    Some(Some(RateLimit {
        limit: LIMIT,
        remaining,
        window: Duration::from_secs(240),
    }))
}

/// A ledger of which the registry has said this at second 0.
fn told(remaining: u64) -> Budget {
    let mut ledger = Budget::default();
    learn(&mut ledger, said(remaining).unwrap(), 0, at(0));
    ledger
}

fn granted(taken: &Taken) -> u64 {
    match taken {
        Taken::Granted { pulls, .. } => *pulls,
        _ => 0,
    }
}

#[test]
fn an_unknown_account_is_asked_for_first() {
    let mut ledger = Budget::default();
    assert_eq!(take(&mut ledger, &request("a", 0)), Taken::Ask);
    let asked = Request {
        asked: said(50),
        ..request("a", 0)
    };
    assert_eq!(granted(&take(&mut ledger, &asked)), PULLS);
    let asked = Request {
        asked: Some(None),
        ..request("a", 0)
    };
    let mut ledger = Budget::default();
    assert_eq!(take(&mut ledger, &asked), Taken::Unlimited);
    assert_eq!(take(&mut ledger, &request("b", 3_599)), Taken::Unlimited);
    assert_eq!(take(&mut ledger, &request("b", 3_601)), Taken::Ask);
}

#[test]
fn all_together_get_what_is_left_less_the_reserve() {
    let mut ledger = told(LIMIT);
    let mut spent = 0;
    for turn in 0..100 {
        let holder = ["a", "b", "c", "d"][turn % 4];
        spent += granted(&take(&mut ledger, &request(holder, 1)));
    }
    assert_eq!(spent, LIMIT - RESERVE);
    assert_eq!(ledger.free, RESERVE);
}

#[test]
fn only_a_person_gets_the_reserve_and_goes_first() {
    let mut ledger = told(RESERVE + 1);
    assert_eq!(granted(&take(&mut ledger, &request("a", 1))), 1);
    assert!(matches!(
        take(&mut ledger, &request("a", 1)),
        Taken::Wait(_)
    ));
    let person = Request {
        is_urgent: true,
        ..request("p", 1)
    };
    for _ in 0..RESERVE {
        assert_eq!(granted(&take(&mut ledger, &person)), 1);
    }
    assert!(matches!(take(&mut ledger, &person), Taken::Wait(_)));
    // Pulls have come back, but the person was told to wait and comes first.
    let more = Request {
        asked: said(LIMIT),
        ..request("a", 11)
    };
    assert!(matches!(take(&mut ledger, &more), Taken::Wait(_)));
    let person = Request {
        is_urgent: true,
        ..request("p", 11)
    };
    assert_eq!(granted(&take(&mut ledger, &person)), 1);
    assert!(granted(&take(&mut ledger, &request("a", 11))) > 0);
}

#[test]
fn nothing_is_asked_before_pulls_may_have_come_back() {
    let mut ledger = told(RESERVE);
    assert_eq!(take(&mut ledger, &request("a", 1)), Taken::Wait(at(10)));
    assert_eq!(take(&mut ledger, &request("a", 10)), Taken::Ask);
    let still = Request {
        asked: said(RESERVE),
        ..request("a", 10)
    };
    assert_eq!(take(&mut ledger, &still), Taken::Wait(at(20)));
    assert_eq!(take(&mut ledger, &request("b", 11)), Taken::Wait(at(20)));
}

#[test]
fn what_others_hold_and_what_is_under_way_comes_off_what_the_registry_says() {
    let mut ledger = told(LIMIT);
    take(&mut ledger, &request("a", 1));
    take(&mut ledger, &request("b", 1));
    let asked = Request {
        asked: said(50),
        under_way: 3,
        ..request("a", 2)
    };
    let taken = granted(&take(&mut ledger, &asked));
    assert_eq!(ledger.free + taken, 50 - PULLS - 3);
    // Who died with a grant holds it no longer than it may be under way.
    let later = Request {
        asked: said(50),
        ..request("c", 2 + 20 + 30)
    };
    let taken = granted(&take(&mut ledger, &later));
    assert_eq!(ledger.free + taken, 50);
}

#[test]
fn what_others_outside_spend_comes_off_at_once() {
    let mut ledger = told(LIMIT);
    let seen = Request {
        seen: Some(12),
        ..request("a", 1)
    };
    assert_eq!(granted(&take(&mut ledger, &seen)), 2);
}

#[test]
fn a_refusal_holds_everybody_until_its_end() {
    let mut ledger = told(LIMIT);
    ledger.pulls_paused_until = Some(time_to_wire(at(60)));
    assert_eq!(take(&mut ledger, &request("a", 1)), Taken::Wait(at(60)));
    assert!(granted(&take(&mut ledger, &request("a", 60))) > 0);
}
