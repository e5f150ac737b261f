//! Retries within the time of one handler; a longer outage is left to the redelivery of the message.
//!
//! Which failures are retried says `Error::retry_delay`. Status 429 has its own rule, in `throttle`.

use std::time::Duration;

use sluice_domain::Backoff;

use crate::error::Error;

const TRIES: u32 = 3;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));
/// The longest wait that a registry may ask for here.
const LONGEST: Duration = Duration::from_secs(5);

/// Retries work after a transient failure, as when a connection was cut.
pub(crate) async fn with_retries<T, F>(mut work: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut tries = 1;
    loop {
        let error = match work().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let asked = error.retry_delay().filter(|_| tries < TRIES);
        // The bus waits for a quota, and for a registry that asks for a longer wait.
        let Some(delay) = asked.map(|asked| asked.max(BACKOFF.delay(tries, random()))) else {
            return Err(error);
        };
        if delay > LONGEST {
            return Err(error);
        }
        tracing::debug!(%error, tries, "failed; retrying");
        tokio::time::sleep(delay).await;
        tries += 1;
    }
}

/// Returns the delay after a number of failures.
pub(crate) fn delay_after(failures: u32) -> Duration {
    BACKOFF.delay(failures, random())
}

/// Returns a random number from 0 to 1, which spreads retries.
pub(crate) fn random() -> f64 {
    let simulated = sluice_domain::clock::simulated_chance();
    let id = simulated.map_or_else(uuid::Uuid::new_v4, uuid::Uuid::from_u128);
    let (high, _) = id.as_u64_pair();
    f64::from(u32::try_from(high >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
