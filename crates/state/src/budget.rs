//! The upstream budgets: one ledger for each account at a registry, shared by all workers through the bucket `budgets`.
//!
//! A process takes a few pulls at a time out of the ledger and spends them. When none are left it asks the registry
//! with a HEAD, which costs nothing, and not more often than pulls may have come back.

mod ledger;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use sluice_domain::RegistryHost;
use sluice_events::subject::token;
use sluice_events::wire::state::Budget as Ledger;
use sluice_events::{time_from_wire, time_to_wire};
use sluice_registry::{Answered, Asked, Budget, Permit, RateLimit, Spending, Withheld};
use sluice_telemetry::metrics;

use self::ledger::{Request, Taken, later, learn, take};
use crate::entries::{Entries, Entry};
use crate::error::Error;

/// How often a ledger is written anew after others came before.
const ROUNDS: usize = 100;
/// How long a process relies on what it read of a registry that limits nothing, or of a pause.
const REMEMBERED: TimeDelta = TimeDelta::seconds(60);
const PAUSE_REMEMBERED: TimeDelta = TimeDelta::seconds(2);

/// The ledgers of all accounts, and what this process has taken out of them.
#[derive(Debug, Clone)]
pub struct Budgets {
    /// The ledgers, by registry and account.
    pub ledgers: Entries<Ledger>,
    holder: Arc<str>,
    pools: Arc<std::sync::Mutex<HashMap<String, Arc<Pool>>>>,
}

/// What this process may spend of one account.
#[derive(Debug, Default)]
struct Pool {
    /// Whoever holds it speaks to the ledger for all.
    ledger: tokio::sync::Mutex<()>,
    now: std::sync::Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    left: u64,
    under_way: u64,
    until: DateTime<Utc>,
    seen: Option<u64>,
    unlimited_until: DateTime<Utc>,
    known_until: DateTime<Utc>,
    not_paused_until: DateTime<Utc>,
    refused: Refused,
}

/// Until when a registry refuses more, as this process was told; kept here too, since the ledger may be away just then.
#[derive(Debug, Default, Clone, Copy)]
struct Refused {
    pulls: DateTime<Utc>,
    listings: DateTime<Utc>,
    logins: DateTime<Utc>,
}

impl Refused {
    /// Notes a refusal; one that ends earlier shortens none.
    fn note(&mut self, spending: Spending, until: DateTime<Utc>) {
        let kept = match spending {
            Spending::Listing => &mut self.listings,
            Spending::Login => &mut self.logins,
            _ => &mut self.pulls,
        };
        *kept = until.max(*kept);
    }

    /// Adds what a ledger does not say yet.
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
    fn now<T>(&self, look: impl FnOnce(&mut Now) -> T) -> T {
        look(&mut self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Counts a pull as under way.
struct UnderWay(Arc<Pool>);

impl UnderWay {
    fn begin(pool: &Arc<Pool>) -> Permit {
        pool.now(|now| now.under_way += 1);
        Permit::Go(Box::new(Self(pool.clone())))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0
            .now(|now| now.under_way = now.under_way.saturating_sub(1));
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

    /// Returns the budget of an account, which background work does not spend to the last `reserve` pulls.
    #[must_use]
    pub fn account(
        &self,
        registry: &RegistryHost,
        account: &str,
        reserve: u32,
        is_urgent: bool,
    ) -> Arc<dyn Budget> {
        let key = key(registry, account);
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever may spend the reserve takes pulls one by one, and leaves none of them to the others.
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

    /// Says whether background work waits for pulls of an account: only what is kept for people is left, or not even that.
    ///
    /// # Errors
    /// A failing bus.
    pub async fn is_spent(
        &self,
        registry: &RegistryHost,
        account: &str,
        reserve: u32,
    ) -> Result<bool, Error> {
        let ledger = self.ledgers.get(&key(registry, account)).await?;
        Ok(ledger.is_some_and(|Entry { value: ledger, .. }| {
            let refused_until = time_from_wire(ledger.pulls_paused_until.as_ref());
            let is_used_up = ledger.limit > 0 && ledger.free <= u64::from(reserve);
            is_used_up || refused_until.is_some_and(|until| until > sluice_domain::now())
        }))
    }
}

/// Names the ledger of an account.
fn key(registry: &RegistryHost, account: &str) -> String {
    let account = if account.is_empty() {
        "anonymous".to_owned()
    } else {
        format!("account.{}", token(account))
    };
    format!("{}.{account}", token(registry.as_str()))
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
        spending: Spending,
        asked: Option<Asked>,
    ) -> Answered<'_, Result<Permit, Withheld>> {
        Box::pin(async move {
            let reserved = match spending {
                Spending::Pull => self.pull(asked).await,
                other => self.unless_paused(other).await,
            };
            reserved.map_err(|error| Withheld::Unknown(Box::new(error)))?
        })
    }

    fn note(&self, limit: Option<RateLimit>) -> Answered<'_, ()> {
        Box::pin(async move {
            let now = sluice_domain::now();
            let is_known = self.pool.now(|pool| {
                if let Some(said) = limit {
                    let least = pool
                        .seen
                        .map_or(said.remaining, |seen| seen.min(said.remaining));
                    pool.seen = Some(least);
                    // It limits nothing no more.
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
            let noted = self.change(|ledger| {
                // One answer that names no limit does not lift one that is known.
                let is_news = ledger.told_at.is_none() || (ledger.limit == 0 && limit.is_some());
                if is_news && ledger.grants.is_empty() {
                    learn(ledger, limit, 0, now);
                }
                is_news
            });
            match noted.await {
                Ok(()) => self.pool.now(|pool| pool.known_until = now + REMEMBERED),
                // Whoever wants to pull finds out.
                Err(error) => {
                    tracing::debug!(registry = self.registry, %error, "what is left is not noted");
                }
            }
        })
    }

    fn refused(&self, spending: Spending, until: DateTime<Utc>) -> Answered<'_, ()> {
        Box::pin(async move {
            tracing::warn!(registry = self.registry, account = self.account, ?spending, %until, "the registry refuses more; its account is left alone");
            self.pool.now(|pool| {
                pool.left = 0;
                pool.not_paused_until = DateTime::default();
                pool.refused.note(spending, until);
            });
            // What is read has it; where it cannot be written now, whoever wants to pull next writes it.
            if let Err(error) = self.change(|_| true).await {
                tracing::warn!(registry = self.registry, %error, "the other workers are not told yet");
            }
        })
    }
}

impl Account {
    /// Spends a pull that this process has, or takes some more.
    async fn pull(&self, asked: Option<Asked>) -> Result<Result<Permit, Withheld>, Error> {
        let _ledger = self.pool.ledger.lock().await;
        let now = sluice_domain::now();
        let has = self.pool.now(|pool| {
            let is_unlimited = pool.unlimited_until > now;
            let has = is_unlimited || (pool.left > 0 && pool.until > now);
            if has && !is_unlimited {
                pool.left -= 1;
            }
            has
        });
        if has {
            return Ok(Ok(UnderWay::begin(&self.pool)));
        }
        for _ in 0..ROUNDS {
            let (mut ledger, revision) = self.read().await?;
            let (under_way, seen) = self.pool.now(|pool| (pool.under_way, pool.seen));
            let request = Request {
                holder: &self.holder,
                under_way,
                reserve: self.reserve,
                is_urgent: self.is_urgent,
                seen,
                asked: asked
                    .filter(|asked| asked.since == revision.unwrap_or(0))
                    .map(|asked| asked.limit),
                now: sluice_domain::now(),
            };
            let taken = take(&mut ledger, &request);
            if taken == Taken::Ask {
                return Ok(Ok(Permit::AskFirst(revision.unwrap_or(0))));
            }
            match self.ledgers.write(&self.key, &ledger, revision).await {
                Err(error) if error.is_conflict() => continue,
                Err(error) => return Err(error),
                Ok(_) => self.tell(&ledger),
            }
            return Ok(self.settle(&taken, request.now, &ledger));
        }
        Err(self.restless())
    }

    fn settle(
        &self,
        taken: &Taken,
        at: DateTime<Utc>,
        ledger: &Ledger,
    ) -> Result<Permit, Withheld> {
        self.pool.now(|pool| {
            pool.seen = None;
            pool.left = 0;
            match taken {
                Taken::Unlimited => {
                    pool.unlimited_until = at + REMEMBERED;
                    pool.known_until = pool.unlimited_until;
                }
                Taken::Granted { pulls, until } => {
                    pool.left = pulls.saturating_sub(1);
                    pool.until = *until;
                }
                Taken::Ask | Taken::Wait(_) => {}
            }
        });
        match taken {
            Taken::Wait(at) => Err(Withheld::Until {
                at: *at,
                reason: reason(ledger, self.is_urgent),
            }),
            _ => Ok(UnderWay::begin(&self.pool)),
        }
    }

    /// Lists and logins are not counted beforehand; a refusal pauses them for everybody.
    async fn unless_paused(&self, spending: Spending) -> Result<Result<Permit, Withheld>, Error> {
        let now = sluice_domain::now();
        if self.pool.now(|pool| pool.not_paused_until > now) {
            return Ok(Ok(Permit::Go(Box::new(()))));
        }
        let (ledger, _) = self.read().await?;
        let pause = match spending {
            Spending::Listing => &ledger.listings_paused_until,
            _ => &ledger.logins_paused_until,
        };
        if let Some(at) = later(time_from_wire(pause.as_ref()), now) {
            let reason = "the registry refused more of it to some worker".to_owned();
            return Ok(Err(Withheld::Until { at, reason }));
        }
        let either = [&ledger.listings_paused_until, &ledger.logins_paused_until];
        if either
            .iter()
            .all(|pause| later(time_from_wire(pause.as_ref()), now).is_none())
        {
            self.pool
                .now(|pool| pool.not_paused_until = now + PAUSE_REMEMBERED);
        }
        Ok(Ok(Permit::Go(Box::new(()))))
    }

    async fn read(&self) -> Result<(Ledger, Option<u64>), Error> {
        let entry = self.ledgers.get(&self.key).await?;
        let (ledger, revision) = match entry {
            Some(Entry {
                value, revision, ..
            }) => (value, Some(revision)),
            None => (Ledger::default(), None),
        };
        let mut ledger = Ledger {
            registry: self.registry.clone(),
            account: self.account.clone(),
            ..ledger
        };
        self.pool.now(|pool| pool.refused).add_to(&mut ledger);
        Ok((ledger, revision))
    }

    /// Changes the ledger, if the change says that there is anything to write.
    async fn change(&self, change: impl Fn(&mut Ledger) -> bool) -> Result<(), Error> {
        for _ in 0..ROUNDS {
            let (mut ledger, revision) = self.read().await?;
            if !change(&mut ledger) {
                return Ok(());
            }
            match self.ledgers.write(&self.key, &ledger, revision).await {
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    self.tell(&ledger);
                    return Ok(());
                }
            }
        }
        Err(self.restless())
    }

    fn restless(&self) -> Error {
        Error::TooManyConflicts {
            tag: format!("the budget of {}", self.registry),
        }
    }

    fn tell(&self, ledger: &Ledger) {
        let labels = [self.registry.as_str(), self.account.as_str()];
        if ledger.limit > 0 {
            metrics::UPSTREAM_PULLS_FREE.set(ledger.free as f64, &labels);
            metrics::UPSTREAM_PULLS_LIMIT.set(ledger.limit as f64, &labels);
        }
    }
}

fn reason(ledger: &Ledger, is_urgent: bool) -> String {
    let Ledger {
        limit,
        free,
        reserve,
        window_seconds,
        ..
    } = ledger;
    if is_urgent {
        return format!("of {limit} pulls in {window_seconds} s none is left");
    }
    format!(
        "of {limit} pulls in {window_seconds} s {free} are left, and {reserve} are kept for people"
    )
}
