//! A model of the whole: the real handlers on a bus, a state and registries in memory, in histories drawn at random.
//!
//! A seed gives the same history again. `SLUICE_MODEL_SEED=7 cargo nextest run -p sluice-tests --test model replay`
//! replays one and prints its steps.

mod backend;
mod convergence;
mod history;
mod images;
mod invariants;
mod log;
mod operator_actions;
mod policies;
mod reconnect;
mod registry;
mod sabotage;
mod stages;
mod world;

use std::time::Duration;

use history::{Scenario, run};
use tokio::time::Instant;
use world::Bug;

/// How many histories one test of the whole runs; there are four such tests.
const HISTORIES: u64 = 2_500;

fn holds(first: u64, count: u64, scenario: Scenario) {
    for seed in first..first + count {
        let ended = run(seed, scenario, None, false);
        if let Some(violation) = ended.violation {
            panic!("{}", told(seed, scenario, &violation));
        }
    }
}

fn told(seed: u64, scenario: Scenario, violation: &str) -> String {
    format!(
        "history {seed} of {scenario:?}: {violation}\nreplay it with\n  SLUICE_MODEL_SEED={seed} SLUICE_MODEL_SCENARIO={scenario:?} \
         cargo nextest run -p sluice-tests --test model --no-capture replay"
    )
}

fn setting(name: &str) -> Option<String> {
    std::env::var_os(name)?.into_string().ok()
}

fn scenario() -> Scenario {
    match setting("SLUICE_MODEL_SCENARIO").as_deref() {
        Some("PromoteWithdraw") => Scenario::PromoteWithdraw,
        Some("PrunePromote") => Scenario::PrunePromote,
        Some("Policies") => Scenario::Policies,
        Some("Sabotage") => Scenario::Sabotage,
        _ => Scenario::Whole,
    }
}

#[test]
fn nothing_is_violated_in_the_first_quarter() {
    holds(0, HISTORIES, Scenario::Whole);
}

#[test]
fn nothing_is_violated_in_the_second_quarter() {
    holds(HISTORIES, HISTORIES, Scenario::Whole);
}

#[test]
fn nothing_is_violated_in_the_third_quarter() {
    holds(2 * HISTORIES, HISTORIES, Scenario::Whole);
}

#[test]
fn nothing_is_violated_in_the_last_quarter() {
    holds(3 * HISTORIES, HISTORIES, Scenario::Whole);
}

#[test]
fn a_thousand_races_of_promotion_and_withdrawal_leave_the_gate_shut() {
    holds(0, 1_000, Scenario::PromoteWithdraw);
}

#[test]
fn a_thousand_races_of_pruning_and_promotion_lose_nothing() {
    holds(0, 1_000, Scenario::PrunePromote);
}

#[test]
fn nothing_stays_unnoticed_in_a_target_whatever_people_do_to_policies() {
    holds(0, 1_000, Scenario::Policies);
}

#[test]
fn a_service_that_writes_whatever_it_may_gets_nothing_refused_into_a_target() {
    holds(0, 1_000, Scenario::Sabotage);
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in 0..20 {
        let (first, second) = (
            run(seed, Scenario::Whole, None, false),
            run(seed, Scenario::Whole, None, true),
        );
        assert_eq!(
            (first.hash, first.steps),
            (second.hash, second.steps),
            "{seed}"
        );
        assert_ne!(
            first.hash,
            run(seed + 100, Scenario::Whole, None, false).hash
        );
    }
}

#[test]
fn planted_bugs_are_found() {
    for bug in [Bug::StateBeforeEvent, Bug::NoComparison, Bug::StaleReads] {
        let found = (0..300).find(|seed| {
            run(*seed, Scenario::Whole, Some(bug), false)
                .violation
                .is_some()
        });
        assert!(found.is_some(), "{bug:?} is not found");
    }
}

#[test]
fn a_promoter_that_believes_in_policies_that_are_gone_is_found() {
    for bug in [Bug::PoliciesStay, Bug::NoSearchOfDecisions] {
        let found = (0..300).find(|seed| {
            run(*seed, Scenario::Policies, Some(bug), false)
                .violation
                .is_some()
        });
        assert!(found.is_some(), "{bug:?} is not found");
    }
}

/// Replays the history that the environment names, with its steps; without one, it replays the first.
#[test]
fn replay() {
    let seed = setting("SLUICE_MODEL_SEED").map_or(0, |text| text.parse().unwrap());
    let ended = run(seed, scenario(), None, true);
    if setting("SLUICE_MODEL_SEED").is_some() {
        for line in &ended.trace {
            println!("{line}");
        }
    }
    if let Some(violation) = ended.violation {
        panic!("{}", told(seed, scenario(), &violation));
    }
}

/// Runs histories for as long as the environment says; `tests/soak` sets it. Without it there is nothing to do.
#[test]
fn soak() {
    let Some(seconds) = setting("SLUICE_MODEL_SECONDS") else {
        return;
    };
    let until = Duration::from_secs(seconds.parse().unwrap());
    let first: u64 = setting("SLUICE_MODEL_SEED").map_or(0, |text| text.parse().unwrap());
    let most: u64 =
        setting("SLUICE_MODEL_HISTORIES").map_or(u64::MAX, |text| text.parse().unwrap());
    let (began, mut printed_at) = (Instant::now(), Instant::now());
    let (mut count, mut steps, mut violations) = (0, 0, 0);
    while began.elapsed() < until && count < most {
        let seed = first + count;
        let ended = run(seed, scenario(), None, false);
        count += 1;
        steps += ended.steps;
        if let Some(violation) = ended.violation {
            violations += 1;
            println!("{}", told(seed, scenario(), &violation));
        }
        if printed_at.elapsed() > Duration::from_secs(10) {
            printed_at = Instant::now();
            println!("{count} histories from {first} on, {steps} steps, {violations} violations");
        }
    }
    println!("{count} histories from {first} on, {steps} steps, {violations} violations");
    assert_eq!(violations, 0);
}
