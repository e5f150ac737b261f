//! What an account may spend at a registry: the seam to whoever counts it for all that share the account.

use std::error::Error as StdError;
use std::fmt::{self, Debug};
use std::future::Future;
use std::pin::Pin;

use chrono::{DateTime, Utc};
use sluice_domain::Repository;

use crate::client::Client;
use crate::error::Error;
use crate::manifest::ManifestRef;
use crate::rate::RateLimit;

/// What is spent. Registries limit each by itself; Docker Hub counts GETs of manifests as pulls, and no HEADs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Spending {
    /// A manifest is fetched.
    Pull,
    /// A page of a list is fetched.
    Listing,
    /// A token is asked for.
    Login,
}

/// What a registry said when it was asked how much is left.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// What was known when it was asked, as [`Permit::AskFirst`] says it.
    pub since: u64,
    /// What it said; nothing if it limits nothing.
    pub limit: Option<RateLimit>,
}

/// Whether something may be spent.
pub enum Permit {
    /// It may; it counts as under way until this is dropped.
    Go(Box<dyn Send>),
    /// It is not known what is left: ask with a HEAD, which costs nothing, and say what came of it.
    AskFirst(u64),
}

/// Why something may not be spent.
#[derive(Debug)]
#[non_exhaustive]
pub enum Withheld {
    /// Nothing is left, or what is left is for others.
    Until {
        /// When it is worth another try.
        at: DateTime<Utc>,
        /// What is the matter, for people.
        reason: String,
    },
    /// It cannot be told.
    Unknown(Box<dyn StdError + Send + Sync>),
}

impl Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Go(_) => f.write_str("Go"),
            Self::AskFirst(since) => write!(f, "AskFirst({since})"),
        }
    }
}

/// What will be answered.
pub type Answered<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The budget of one account, shared by all who use it.
pub trait Budget: Debug + Send + Sync + 'static {
    /// Asks whether something may be spent now.
    fn reserve(
        &self,
        spending: Spending,
        asked: Option<Asked>,
    ) -> Answered<'_, Result<Permit, Withheld>>;

    /// Takes note of what the registry says of the pulls that are left, in whatever answer about a manifest.
    fn note(&self, limit: Option<RateLimit>) -> Answered<'_, ()>;

    /// Takes note that the registry refused, and until when it should be left alone.
    fn refused(&self, spending: Spending, until: DateTime<Utc>) -> Answered<'_, ()>;
}

impl Client {
    /// Reserves a pull of a manifest; where it is not known what is left, the registry is asked first.
    pub(crate) async fn may_pull(
        &self,
        repository: &Repository,
        reference: &ManifestRef,
    ) -> Result<Option<Box<dyn Send>>, Error> {
        let Some(budget) = &self.shared.budget else {
            return Ok(None);
        };
        let mut asked = None;
        loop {
            match budget.reserve(Spending::Pull, asked).await {
                Ok(Permit::Go(under_way)) => return Ok(Some(under_way)),
                Ok(Permit::AskFirst(since)) => {
                    let limit = self.ask_what_is_left(repository, reference).await?;
                    asked = Some(Asked { since, limit });
                }
                Err(withheld) => return Err(self.withheld(withheld)),
            }
        }
    }

    /// Says whether something else may be asked of the registry now.
    pub(crate) async fn may_ask(&self, spending: Spending) -> Result<(), Error> {
        match &self.shared.budget {
            None => Ok(()),
            Some(budget) => match budget.reserve(spending, None).await {
                Ok(_) => Ok(()),
                Err(withheld) => Err(self.withheld(withheld)),
            },
        }
    }

    /// Takes note of a refusal until a time that the registry names.
    pub(crate) async fn heeded<T>(
        &self,
        spending: Spending,
        outcome: Result<T, Error>,
    ) -> Result<T, Error> {
        let until = match &outcome {
            Err(Error::Quota { until, .. }) => Some(*until),
            Err(Error::Throttled {
                retry_after: Some(after),
                ..
            }) => Some(sluice_domain::now() + *after),
            _ => None,
        };
        if let (Some(until), Some(budget)) = (until, &self.shared.budget) {
            budget.refused(spending, until).await;
        }
        outcome
    }

    /// Takes note of what an answer about a manifest says of the pulls that are left.
    pub(crate) async fn note_what_is_left(&self, limit: Option<RateLimit>) {
        if let Some(budget) = &self.shared.budget {
            budget.note(limit).await;
        }
    }

    fn withheld(&self, withheld: Withheld) -> Error {
        let what = self.host().to_string();
        match withheld {
            Withheld::Until { at, reason } => Error::Withheld {
                what,
                until: at,
                reason,
            },
            Withheld::Unknown(source) => Error::Budget { what, source },
        }
    }
}
