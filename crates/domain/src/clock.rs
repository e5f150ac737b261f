//! The clock, and chance: a simulation takes the place of both on its own thread, so that a history can be replayed.

use std::cell::Cell;

use chrono::{DateTime, Utc};

#[derive(Debug, Clone, Copy)]
struct Simulated {
    now: DateTime<Utc>,
    seed: u64,
}

thread_local! {
    static SIMULATED: Cell<Option<Simulated>> = const { Cell::new(None) };
}

/// Returns the time.
#[must_use]
pub fn now() -> DateTime<Utc> {
    SIMULATED
        .get()
        .map_or_else(Utc::now, |simulated| simulated.now)
}

/// Returns the next number of a simulation's chance; nothing outside one, where chance is the caller's to find.
#[must_use]
pub fn simulated_chance() -> Option<u128> {
    let mut simulated = SIMULATED.get()?;
    let high = next(&mut simulated.seed);
    let low = next(&mut simulated.seed);
    SIMULATED.set(Some(simulated));
    Some(u128::from(high) << 64 | u128::from(low))
}

/// Begins a simulation on this thread, at a time and with a seed for chance.
pub fn simulate(now: DateTime<Utc>, seed: u64) {
    SIMULATED.set(Some(Simulated { now, seed }));
}

/// Sets the time of the simulation on this thread; nothing happens where there is none.
pub fn set_simulated(now: DateTime<Utc>) {
    let simulated = SIMULATED.get();
    SIMULATED.set(simulated.map(|simulated| Simulated { now, ..simulated }));
}

/// Ends the simulation on this thread.
pub fn stop_simulating() {
    SIMULATED.set(None);
}

/// The generator `SplitMix64`.
const fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_has_its_own_time_and_the_same_chance_again() {
        let at = DateTime::from_timestamp(7, 0).unwrap();
        let run = || {
            simulate(at, 1);
            (simulated_chance().unwrap(), simulated_chance().unwrap())
        };
        let (first, second) = run();
        assert_ne!(first, second);
        assert_eq!(run(), (first, second));
        assert_eq!(now(), at);
        set_simulated(DateTime::from_timestamp(9, 0).unwrap());
        assert_eq!(now().timestamp(), 9);
        stop_simulating();
        assert!(simulated_chance().is_none());
        assert!(now() > at);
    }
}
