//! Short tries within one handler's time; what takes longer to come back is left to the next delivery. 429 has a rule
//! of its own, in `throttle`.

use std::time::Duration;

use sluice_domain::Backoff;

use crate::error::Error;

const TRIES: u32 = 3;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));
/// The longest wait that a registry may ask for here.
const LONGEST: Duration = Duration::from_secs(5);

/// Tries again what may pass at once, as when a connection was cut.
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
        let asked = error.may_pass().filter(|_| tries < TRIES);
        // A quota is for the bus to wait for, and so is a registry that asks for more than a moment.
        let Some(pause) = asked.map(|asked| asked.max(BACKOFF.delay(tries, random()))) else {
            return Err(error);
        };
        if pause > LONGEST {
            return Err(error);
        }
        tracing::debug!(%error, tries, "failed; trying again");
        tokio::time::sleep(pause).await;
        tries += 1;
    }
}

/// Returns how long to wait after so many failures.
pub(crate) fn pause_after(failures: u32) -> Duration {
    BACKOFF.delay(failures, random())
}

/// Enough chance to spread retries.
pub(crate) fn random() -> f64 {
    let simulated = sluice_domain::clock::simulated_chance();
    let id = simulated.map_or_else(uuid::Uuid::new_v4, uuid::Uuid::from_u128);
    let (high, _) = id.as_u64_pair();
    f64::from(u32::try_from(high >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
