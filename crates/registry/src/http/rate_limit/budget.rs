//! The request budget of an account: the interface to a ledger that all users of the account share.

use std::error::Error as StdError;
use std::fmt::{self, Debug};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sluice_domain::RegistryHost;

use crate::error::Error;
use crate::http::rate_limit::RateLimit;

/// The kinds of requests that registries limit separately; Docker Hub counts GETs of manifests as pulls, and no HEADs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestKind {
    /// The GET of a manifest.
    Pull,
    /// A page of a list.
    Listing,
    /// A request to the token issuer.
    Login,
}

/// The rate limit that a registry reported to a HEAD after [`Permit::ProbeFirst`].
#[derive(Debug, Clone, Copy)]
pub struct RateLimitProbe {
    /// The revision of the ledger that asked for the probe.
    pub revision: u64,
    /// The limit; none if the registry reports none.
    pub limit: Option<RateLimit>,
}

/// Whether a request may be sent now.
pub enum Permit {
    /// It may; it counts as in flight until this is dropped.
    Granted(Box<dyn Send>),
    /// The rate limit is not known: send a HEAD, which costs nothing, and reserve again with the probe for this revision.
    ProbeFirst(u64),
}

/// Why a request may not be sent.
#[derive(Debug)]
#[non_exhaustive]
pub enum BudgetDenial {
    /// The budget is used up, or the rest is reserved for others.
    UsedUp {
        /// When to retry.
        until: DateTime<Utc>,
        /// The reason, for people.
        reason: String,
    },
    /// The ledger cannot be read or written.
    Unavailable(Box<dyn StdError + Send + Sync>),
}

impl Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granted(_) => f.write_str("Granted"),
            Self::ProbeFirst(revision) => write!(f, "ProbeFirst({revision})"),
        }
    }
}

/// The future result of a method of [`Budget`].
pub type BudgetFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The request budget of one account, shared by all its users.
pub trait Budget: Debug + Send + Sync + 'static {
    /// Reserves a request.
    fn reserve(
        &self,
        kind: RequestKind,
        probe: Option<RateLimitProbe>,
    ) -> BudgetFuture<'_, Result<Permit, BudgetDenial>>;

    /// Records the rate limit in a response about a manifest; none if it names none.
    fn record_limit(&self, limit: Option<RateLimit>) -> BudgetFuture<'_, ()>;

    /// Records that the registry refused a request, and until when it asks for no more of them.
    fn record_refusal(&self, kind: RequestKind, until: DateTime<Utc>) -> BudgetFuture<'_, ()>;
}

/// The budget of a client's account, if it has one.
#[derive(Debug)]
pub(crate) struct AccountBudget {
    host: RegistryHost,
    budget: Option<Arc<dyn Budget>>,
}

impl AccountBudget {
    pub(crate) fn new(host: RegistryHost, budget: Option<Arc<dyn Budget>>) -> Self {
        Self { host, budget }
    }

    /// Reserves a pull, or any request that needs no probe; without a budget it is granted.
    pub(crate) async fn reserve(
        &self,
        kind: RequestKind,
        probe: Option<RateLimitProbe>,
    ) -> Result<Permit, Error> {
        match &self.budget {
            None => Ok(Permit::Granted(Box::new(()))),
            Some(budget) => {
                let reserved = budget.reserve(kind, probe).await;
                reserved.map_err(|denial| self.denied(denial))
            }
        }
    }

    /// Records the time until which the registry refuses requests, if this is the error of such a refusal.
    pub(crate) async fn record_refusal<T>(
        &self,
        kind: RequestKind,
        result: Result<T, Error>,
    ) -> Result<T, Error> {
        let until = match &result {
            Err(Error::Quota { until, .. }) => Some(*until),
            Err(Error::TooManyRequests {
                retry_after: Some(after),
                ..
            }) => Some(sluice_domain::now() + *after),
            _ => None,
        };
        if let (Some(until), Some(budget)) = (until, &self.budget) {
            budget.record_refusal(kind, until).await;
        }
        result
    }

    /// Records the rate limit in a response about a manifest.
    pub(crate) async fn record_limit(&self, limit: Option<RateLimit>) {
        if let Some(budget) = &self.budget {
            budget.record_limit(limit).await;
        }
    }

    fn denied(&self, denial: BudgetDenial) -> Error {
        let object = self.host.to_string();
        match denial {
            BudgetDenial::UsedUp { until, reason } => Error::BudgetUsedUp {
                object,
                until,
                reason,
            },
            BudgetDenial::Unavailable(source) => Error::BudgetUnavailable { object, source },
        }
    }
}
