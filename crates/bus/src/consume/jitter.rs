//! Random numbers that spread retries.

/// Returns a random number from 0 to 1; a simulation determines it.
pub(crate) fn jitter() -> f64 {
    let simulated = sluice_domain::clock::simulated_chance();
    let id = simulated.map_or_else(uuid::Uuid::new_v4, uuid::Uuid::from_u128);
    let (high, _) = id.as_u64_pair();
    f64::from(u32::try_from(high >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
