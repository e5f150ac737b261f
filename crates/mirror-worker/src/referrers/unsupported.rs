//! The upstream repositories that do not list referrers.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use sluice_domain::RemoteRepository;

/// When a repository without a list of referrers is asked again.
const RETRY_AFTER: TimeDelta = TimeDelta::hours(20);

/// The upstream repositories that do not list referrers, each with the time when it is asked again.
#[derive(Debug, Default)]
pub(crate) struct ReferrersUnsupported(Mutex<HashMap<RemoteRepository, DateTime<Utc>>>);

impl ReferrersUnsupported {
    pub(crate) fn contains(&self, repository: &RemoteRepository) -> bool {
        let mut until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = sluice_domain::now();
        until.retain(|_, until| *until > now);
        until.contains_key(repository)
    }

    pub(super) fn insert(&self, repository: &RemoteRepository) {
        let mut until = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.insert(repository.clone(), sluice_domain::now() + RETRY_AFTER);
    }
}
