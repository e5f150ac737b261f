//! Identifies accounts by their passwords. A wrong password, an unknown account and an unreadable secret get the same
//! answer after the same time.
//!
//! Wrong passwords slow down their source alone: attempts are limited for each source and account, so no guesses keep
//! the holder of an account out.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretString};
use sluice_domain::{AccountName, stages};
use sluice_service::{ClientNetwork, SecretFile, Secrets};
use sluice_state::Snapshot;
use tokio::time::{Instant, sleep_until, timeout};

use crate::tokens::bearer::{authorization, is_same};
use crate::tokens::grants::Requester;

/// How long every refusal takes.
const REFUSAL: Duration = Duration::from_millis(500);
/// How many wrong passwords one source may try for one account within the time of a refusal: eight a second.
const MAX_ATTEMPTS: usize = 4;
/// How long an attempt waits behind the wrong passwords of its own source.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// From this many limits on, those without recent failures are removed.
const CLEANUP_THRESHOLD: usize = 256;

/// Why a login failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LoginError {
    /// The account does not exist or has another password.
    WrongPassword,
    /// This source is trying too many wrong passwords for this account.
    TooManyAttempts,
}

/// When each recent wrong password stops counting. An attempt holds the lock, and further ones wait in line.
type RecentFailures = Arc<tokio::sync::Mutex<VecDeque<Instant>>>;

/// The accounts and their passwords.
#[derive(Debug)]
pub(crate) struct Accounts {
    /// The folder with the passwords of Sluice's services.
    services: PathBuf,
    /// The passwords of `Account` resources.
    secrets: Secrets,
    /// The failures of each source, by the account name that it sent, whether or not the account exists.
    failures: Mutex<HashMap<(ClientNetwork, String), RecentFailures>>,
}

impl Accounts {
    pub(crate) fn new(services: PathBuf, secrets: Secrets) -> Self {
        Self {
            services,
            secrets,
            failures: Mutex::default(),
        }
    }

    /// Returns the account that sent a request.
    pub(crate) async fn identify(
        &self,
        snapshot: &Snapshot,
        source: ClientNetwork,
        headers: &HeaderMap,
    ) -> Result<Requester, LoginError> {
        if !headers.contains_key(AUTHORIZATION) {
            return Ok(Requester::Anonymous);
        }
        let (name, password) = credential(headers).unwrap_or_default();
        // A parsed name cannot lead out of a folder, and is not longer than others.
        let name: Option<AccountName> = name.parse().ok();
        let account = name
            .as_ref()
            .and_then(|name| self.find_account(snapshot, name.as_str()));
        // The passwords of services are random; waiting behind the guesses of others would only stop the service.
        let mut failures = None;
        if !matches!(account, Some((Requester::Service(_), _))) {
            let recent = self.failures(source, name.as_ref().map_or("", AccountName::as_str));
            let attempt = timeout(MAX_WAIT, wait_for_attempt(&recent)).await;
            failures = Some(attempt.map_err(|_| LoginError::TooManyAttempts)?);
        }
        let until = Instant::now() + REFUSAL;
        let known_name = account
            .as_ref()
            .map(|(requester, _)| requester.name().to_owned());
        if let Some((requester, file)) = account
            && is_password(file, password).await
        {
            return Ok(requester);
        }
        // A client that closes the connection counts too: a missing answer after a moment means a wrong password.
        if let Some(mut failures) = failures {
            failures.push_back(until);
        }
        // The name of an unknown account is not logged: people type passwords into the wrong field.
        tracing::warn!(
            account = known_name,
            "login with a wrong account or password"
        );
        sleep_until(until).await;
        Err(LoginError::WrongPassword)
    }

    fn find_account(&self, snapshot: &Snapshot, name: &str) -> Option<(Requester, SecretFile)> {
        if let Some(service) = stages::find(name).filter(|stage| stage.has_registry_account()) {
            let file = SecretFile::at(&self.services.join(service.name));
            return Some((Requester::Service(service), file));
        }
        let account = snapshot
            .accounts
            .values()
            .find(|account| account.name.as_str() == name)?;
        let file = self.secrets.for_comparison(&account.password.secret);
        Some((Requester::Account(account.clone()), file))
    }

    /// Returns the recent failures of a source for an account. Those that are unused and in the past are removed, so
    /// that there are not more than attempts in a moment.
    fn failures(&self, source: ClientNetwork, name: &str) -> RecentFailures {
        let mut all = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= CLEANUP_THRESHOLD {
            let now = Instant::now();
            let is_recent =
                |failures: &VecDeque<Instant>| failures.back().is_some_and(|until| *until > now);
            all.retain(|_, failures| {
                Arc::strong_count(failures) > 1
                    || failures
                        .try_lock()
                        .is_ok_and(|failures| is_recent(&failures))
            });
        }
        Arc::clone(all.entry((source, name.to_owned())).or_default())
    }
}

/// Waits in line until another password may be tried.
async fn wait_for_attempt(
    recent: &RecentFailures,
) -> tokio::sync::OwnedMutexGuard<VecDeque<Instant>> {
    let mut failures = Arc::clone(recent).lock_owned().await;
    while let Some(until) = failures.front().copied() {
        if until <= Instant::now() {
            failures.pop_front();
        } else if failures.len() >= MAX_ATTEMPTS {
            // A cancelled attempt has changed nothing.
            sleep_until(until).await;
        } else {
            break;
        }
    }
    failures
}

/// Parses `Authorization: Basic`.
fn credential(headers: &HeaderMap) -> Option<(String, SecretString)> {
    let decoded = STANDARD.decode(authorization(headers, "basic")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.into()))
}

async fn is_password(file: SecretFile, password: SecretString) -> bool {
    let read = tokio::task::spawn_blocking(move || file.text()).await;
    match read {
        Ok(Ok(secret)) => is_same(&secret, password.expose_secret()),
        Ok(Err(error)) => {
            tracing::error!(
                error = format!("{error:#}"),
                "failed to read the password of an account, which cannot log in"
            );
            false
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests;
