//! The pull budgets of upstream registries: one ledger for each account, shared by all workers through the bucket
//! `budgets`.
//!
//! A process reserves a few pulls of the ledger at a time. When the ledger has none, it asks the registry with a HEAD,
//! which is not counted, and not more often than pulls may have come back.

mod ledger;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use sluice_domain::RegistryHost;
use sluice_events::subject;
use sluice_events::wire::state::Budget as Ledger;
use sluice_events::{time_from_wire, time_to_wire};
use sluice_registry::{
    Budget, BudgetDenial, BudgetFuture, Permit, RateLimit, RateLimitProbe, RequestKind,
};
use sluice_telemetry::metrics;

use self::ledger::{Request, Reservation, if_future, record_limit, reserve};
use crate::entries::{Entries, Entry};
use crate::error::Error;

/// How long a process relies on a ledger that it read: of a registry without a limit, and of an account that is not
/// paused.
const UNLIMITED_CACHED: TimeDelta = TimeDelta::seconds(60);
const NOT_PAUSED_CACHED: TimeDelta = TimeDelta::seconds(2);

/// The ledgers of all accounts, and the pulls that this process has reserved.
#[derive(Debug, Clone)]
pub struct Budgets {
    /// The ledgers, by registry and account.
    pub ledgers: Entries<Ledger>,
    holder: Arc<str>,
    pools: Arc<std::sync::Mutex<HashMap<String, Arc<Pool>>>>,
}

/// The pulls of one account that this process has reserved.
#[derive(Debug, Default)]
struct Pool {
    /// Serialises the reservations of this process.
    ledger: tokio::sync::Mutex<()>,
    state: std::sync::Mutex<PoolState>,
}

#[derive(Debug, Default)]
struct PoolState {
    /// Reserved pulls that are not used yet.
    left: u64,
    /// Pulls that have begun and not ended.
    in_flight: u64,
    /// When the reserved pulls expire.
    until: DateTime<Utc>,
    /// The least number of pulls that an answer of the registry named since the last reservation.
    seen: Option<u64>,
    unlimited_until: DateTime<Utc>,
    known_until: DateTime<Utc>,
    not_paused_until: DateTime<Utc>,
    refused: RefusedUntil,
}

/// Until when a registry refuses requests, as its answers to this process say; the ledger may be unreachable just then.
#[derive(Debug, Default, Clone, Copy)]
struct RefusedUntil {
    pulls: DateTime<Utc>,
    listings: DateTime<Utc>,
    logins: DateTime<Utc>,
}

impl RefusedUntil {
    /// Records a refusal; the latest end counts.
    fn record(&mut self, kind: RequestKind, until: DateTime<Utc>) {
        let kept = match kind {
            RequestKind::Listing => &mut self.listings,
            RequestKind::Login => &mut self.logins,
            _ => &mut self.pulls,
        };
        *kept = until.max(*kept);
    }

    /// Adds the refusals to a ledger that does not have them yet.
    fn add_to(self, ledger: &mut Ledger) {
        for (until, paused) in [
            (self.pulls, &mut ledger.pulls_paused_until),
            (self.listings, &mut ledger.listings_paused_until),
            (self.logins, &mut ledger.logins_paused_until),
        ] {
            if until > time_from_wire(paused.as_ref()).unwrap_or_default() {
                *paused = Some(time_to_wire(until));
            }
        }
    }
}

impl Pool {
    fn with<T>(&self, f: impl FnOnce(&mut PoolState) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A pull in flight, until it is dropped.
struct InFlightPull(Arc<Pool>);

impl InFlightPull {
    fn begin(pool: &Arc<Pool>) -> Permit {
        pool.with(|state| state.in_flight += 1);
        Permit::Granted(Box::new(Self(pool.clone())))
    }
}

impl Drop for InFlightPull {
    fn drop(&mut self) {
        self.0
            .with(|state| state.in_flight = state.in_flight.saturating_sub(1));
    }
}

impl Budgets {
    pub(crate) fn new(ledgers: Entries<Ledger>) -> Self {
        let simulated = sluice_domain::clock::simulated_chance();
        let holder = simulated.map_or_else(uuid::Uuid::new_v4, uuid::Uuid::from_u128);
        Self {
            ledgers,
            holder: holder.simple().to_string().into(),
            pools: Arc::default(),
        }
    }

    /// Returns the budget of an account, of which background work leaves `reserve` pulls to people.
    #[must_use]
    pub fn account(
        &self,
        registry: &RegistryHost,
        account: &str,
        reserve: u32,
        is_urgent: bool,
    ) -> Arc<dyn Budget> {
        let key = ledger_key(registry, account);
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        // Urgent work has a pool of its own: its pulls come from the reserve, which background work must not use.
        let pool = pools
            .entry(format!("{is_urgent}.{key}"))
            .or_default()
            .clone();
        let urgent = if is_urgent { ".urgent" } else { "" };
        Arc::new(Account {
            ledgers: self.ledgers.clone(),
            holder: format!("{}{urgent}", self.holder),
            pool,
            key,
            registry: registry.to_string(),
            account: account.to_owned(),
            reserve: reserve.into(),
            is_urgent,
        })
    }

    /// Says whether background work waits for pulls of an account: only the reserve is left, or not even that.
    pub async fn is_spent(
        &self,
        registry: &RegistryHost,
        account: &str,
        reserve: u32,
    ) -> Result<bool, Error> {
        let ledger = self.ledgers.get(&ledger_key(registry, account)).await?;
        Ok(ledger.is_some_and(|Entry { value: ledger, .. }| {
            let refused_until = time_from_wire(ledger.pulls_paused_until.as_ref());
            let is_exhausted = ledger.limit > 0 && ledger.free <= u64::from(reserve);
            is_exhausted || refused_until.is_some_and(|until| until > sluice_domain::now())
        }))
    }
}

/// Returns the key of the ledger of an account.
fn ledger_key(registry: &RegistryHost, account: &str) -> String {
    let account = if account.is_empty() {
        "anonymous".to_owned()
    } else {
        format!("account.{}", subject::encode(account))
    };
    format!("{}.{account}", subject::encode(registry.as_str()))
}

#[derive(Debug)]
struct Account {
    ledgers: Entries<Ledger>,
    holder: String,
    pool: Arc<Pool>,
    key: String,
    registry: String,
    account: String,
    reserve: u64,
    is_urgent: bool,
}

impl Budget for Account {
    fn reserve(
        &self,
        kind: RequestKind,
        probe: Option<RateLimitProbe>,
    ) -> BudgetFuture<'_, Result<Permit, BudgetDenial>> {
        Box::pin(async move {
            let reserved = match kind {
                RequestKind::Pull => self.reserve_pull(probe).await,
                other => self.ensure_not_paused(other).await,
            };
            reserved.map_err(|error| BudgetDenial::Unavailable(Box::new(error)))?
        })
    }

    fn record_limit(&self, limit: Option<RateLimit>) -> BudgetFuture<'_, ()> {
        Box::pin(async move {
            let now = sluice_domain::now();
            let is_known = self.pool.with(|pool| {
                if let Some(said) = limit {
                    let least = pool
                        .seen
                        .map_or(said.remaining, |seen| seen.min(said.remaining));
                    pool.seen = Some(least);
                    // The registry has a limit now.
                    if pool.unlimited_until > now {
                        pool.unlimited_until = now;
                        pool.known_until = now;
                    }
                }
                pool.known_until > now
            });
            if is_known {
                return;
            }
            let recorded = self.change(|ledger| {
                // One answer without a limit does not lift a known limit.
                let is_new = ledger.reported_at.is_none() || (ledger.limit == 0 && limit.is_some());
                if is_new && ledger.grants.is_empty() {
                    record_limit(ledger, limit, 0, now);
                }
            });
            match recorded.await {
                Ok(()) => self
                    .pool
                    .with(|pool| pool.known_until = now + UNLIMITED_CACHED),
                // The next reservation asks the registry.
                Err(error) => {
                    tracing::debug!(registry = self.registry, %error, "failed to record the rate limit of the registry");
                }
            }
        })
    }

    fn record_refusal(&self, kind: RequestKind, until: DateTime<Utc>) -> BudgetFuture<'_, ()> {
        Box::pin(async move {
            tracing::warn!(registry = self.registry, account = self.account, ?kind, %until, "the registry refuses more requests; pausing its account");
            self.pool.with(|pool| {
                pool.left = 0;
                pool.not_paused_until = DateTime::default();
                pool.refused.record(kind, until);
            });
            // The change adds the refusal; if the write fails now, the next reservation writes it.
            if let Err(error) = self.change(|_| ()).await {
                tracing::warn!(registry = self.registry, %error, "failed to record the refusal for other workers");
            }
        })
    }
}

impl Account {
    /// Uses a reserved pull of this process, or reserves some more.
    async fn reserve_pull(
        &self,
        probe: Option<RateLimitProbe>,
    ) -> Result<Result<Permit, BudgetDenial>, Error> {
        let _ledger = self.pool.ledger.lock().await;
        let now = sluice_domain::now();
        let has_pull = self.pool.with(|pool| {
            let is_unlimited = pool.unlimited_until > now;
            let has_pull = is_unlimited || (pool.left > 0 && pool.until > now);
            if has_pull && !is_unlimited {
                pool.left -= 1;
            }
            has_pull
        });
        if has_pull {
            return Ok(Ok(InFlightPull::begin(&self.pool)));
        }
        let (reservation, revision, ledger, at) = self
            .ledgers
            .modify(&self.key, |stored, revision| {
                let mut ledger = self.complete(stored);
                let (in_flight, seen) = self.pool.with(|pool| (pool.in_flight, pool.seen));
                let request = Request {
                    holder: &self.holder,
                    in_flight,
                    reserve: self.reserve,
                    is_urgent: self.is_urgent,
                    seen,
                    asked: probe
                        .filter(|probe| probe.revision == revision)
                        .map(|probe| probe.limit),
                    now: sluice_domain::now(),
                };
                let reservation = reserve(&mut ledger, &request);
                if reservation != Reservation::AskRegistry {
                    stored.clone_from(&ledger);
                }
                (reservation, revision, ledger, request.now)
            })
            .await?;
        if reservation == Reservation::AskRegistry {
            return Ok(Ok(Permit::ProbeFirst(revision)));
        }
        self.report_metrics(&ledger);
        Ok(self.apply_reservation(&reservation, at, &ledger))
    }

    fn apply_reservation(
        &self,
        reservation: &Reservation,
        at: DateTime<Utc>,
        ledger: &Ledger,
    ) -> Result<Permit, BudgetDenial> {
        self.pool.with(|pool| {
            pool.seen = None;
            pool.left = 0;
            match reservation {
                Reservation::Unlimited => {
                    pool.unlimited_until = at + UNLIMITED_CACHED;
                    pool.known_until = pool.unlimited_until;
                }
                Reservation::Granted { pulls, until } => {
                    pool.left = pulls.saturating_sub(1);
                    pool.until = *until;
                }
                Reservation::AskRegistry | Reservation::Wait(_) => {}
            }
        });
        match reservation {
            Reservation::Wait(at) => Err(BudgetDenial::UsedUp {
                until: *at,
                reason: exhausted_reason(ledger, self.is_urgent),
            }),
            _ => Ok(InFlightPull::begin(&self.pool)),
        }
    }

    /// Listings and logins have no limit that is known beforehand; a refusal pauses them for all workers.
    async fn ensure_not_paused(
        &self,
        kind: RequestKind,
    ) -> Result<Result<Permit, BudgetDenial>, Error> {
        let now = sluice_domain::now();
        if self.pool.with(|pool| pool.not_paused_until > now) {
            return Ok(Ok(Permit::Granted(Box::new(()))));
        }
        let (stored, _) = self.ledgers.get_or_default(&self.key).await?;
        let ledger = self.complete(&stored);
        let pause = match kind {
            RequestKind::Listing => &ledger.listings_paused_until,
            _ => &ledger.logins_paused_until,
        };
        if let Some(at) = if_future(time_from_wire(pause.as_ref()), now) {
            let reason = "the registry refused more such requests".to_owned();
            return Ok(Err(BudgetDenial::UsedUp { until: at, reason }));
        }
        let either = [&ledger.listings_paused_until, &ledger.logins_paused_until];
        if either
            .iter()
            .all(|pause| if_future(time_from_wire(pause.as_ref()), now).is_none())
        {
            self.pool
                .with(|pool| pool.not_paused_until = now + NOT_PAUSED_CACHED);
        }
        Ok(Ok(Permit::Granted(Box::new(()))))
    }

    /// Returns a stored ledger with the names of its account, and the refusals to this process.
    fn complete(&self, stored: &Ledger) -> Ledger {
        let mut ledger = Ledger {
            registry: self.registry.clone(),
            account: self.account.clone(),
            ..stored.clone()
        };
        self.pool.with(|pool| pool.refused).add_to(&mut ledger);
        ledger
    }

    async fn change(&self, change: impl Fn(&mut Ledger) + Send + Sync) -> Result<(), Error> {
        let ledger = self.ledgers.modify(&self.key, |stored, _| {
            *stored = self.complete(stored);
            change(stored);
            stored.clone()
        });
        self.report_metrics(&ledger.await?);
        Ok(())
    }

    fn report_metrics(&self, ledger: &Ledger) {
        let labels = [self.registry.as_str(), self.account.as_str()];
        if ledger.limit > 0 {
            metrics::UPSTREAM_PULLS_FREE.set(ledger.free as f64, &labels);
            metrics::UPSTREAM_PULLS_LIMIT.set(ledger.limit as f64, &labels);
        }
    }
}

fn exhausted_reason(ledger: &Ledger, is_urgent: bool) -> String {
    let Ledger {
        limit,
        free,
        reserve,
        window_seconds,
        ..
    } = ledger;
    if is_urgent {
        return format!("none of {limit} pulls in {window_seconds} s is left");
    }
    format!(
        "{free} of {limit} pulls in {window_seconds} s are left, and {reserve} are reserved for people"
    )
}
