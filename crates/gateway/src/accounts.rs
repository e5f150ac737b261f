//! Whose password it is. A wrong one, an unknown account and an unreadable secret look the same and take the same time.
//!
//! Wrong passwords slow down the one who tries them: each source has a pace of its own for each account. Nobody waits for
//! the guesses of another source, so no guesses keep the holder of an account out.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretString};
use sluice_domain::{AccountName, SERVICE_ACCOUNTS};
use sluice_service::{SecretFile, Secrets, Source};
use sluice_state::Snapshot;
use tokio::time::{Instant, sleep_until, timeout};

use crate::grants::Requester;
use crate::secret::{authorization, is_same};

/// How long every refusal takes.
const REFUSAL: Duration = Duration::from_millis(500);
/// How many wrong passwords one source may try of one account within the time of a refusal: eight a second.
const ATTEMPTS: usize = 4;
/// How long somebody waits for their turn behind the wrong passwords of their own source.
const PATIENCE: Duration = Duration::from_secs(10);
/// From this many paces on, those that are over are looked for.
const MANY: usize = 256;

/// Why nobody is let in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Account and password do not go together.
    Wrong,
    /// Too many wrong passwords of this account are being tried by this source.
    Busy,
}

/// When the last wrong passwords stop counting. Whoever tries one holds the lock, and the others wait in line.
type RecentFailures = Arc<tokio::sync::Mutex<VecDeque<Instant>>>;

/// Where passwords are.
#[derive(Debug)]
pub(crate) struct Accounts {
    /// The folder with those of Sluice's services.
    services: PathBuf,
    /// Those of the `Account` resources.
    secrets: Secrets,
    /// The paces, by source and name; the name is that which was sent, whether there is such an account or not.
    paces: Mutex<HashMap<(Source, String), RecentFailures>>,
}

impl Accounts {
    pub(crate) fn new(services: PathBuf, secrets: Secrets) -> Self {
        Self {
            services,
            secrets,
            paces: Mutex::default(),
        }
    }

    /// Finds out who sends a request.
    pub(crate) async fn identify(
        &self,
        snapshot: &Snapshot,
        source: Source,
        headers: &HeaderMap,
    ) -> Result<Requester, Refused> {
        if !headers.contains_key(AUTHORIZATION) {
            return Ok(Requester::Anonymous);
        }
        let (name, password) = credential(headers).unwrap_or_default();
        // The grammar of names keeps a name from leading out of a folder, and from being longer than others.
        let name: Option<AccountName> = name.parse().ok();
        let known = name
            .as_ref()
            .and_then(|name| self.look_up(snapshot, name.as_str()));
        // The passwords of services are random; to wait behind a stranger's guesses would only stop the service.
        let mut wrong = None;
        if !matches!(known, Some((Requester::Service(_), _))) {
            let pace = self.pace(source, name.as_ref().map_or("", AccountName::as_str));
            let turn = timeout(PATIENCE, turn(&pace)).await;
            wrong = Some(turn.map_err(|_| Refused::Busy)?);
        }
        let until = Instant::now() + REFUSAL;
        let account = known
            .as_ref()
            .map(|(requester, _)| requester.name().to_owned());
        if let Some((requester, file)) = known
            && is_password(file, password).await
        {
            return Ok(requester);
        }
        // It counts whether or not somebody waits for the answer: who has none after a moment knows it, too.
        if let Some(mut wrong) = wrong {
            wrong.push_back(until);
        }
        // What is no account of ours is not repeated in the log: people type passwords into the wrong field.
        tracing::warn!(account, "a wrong account or password was refused");
        sleep_until(until).await;
        Err(Refused::Wrong)
    }

    fn look_up(&self, snapshot: &Snapshot, name: &str) -> Option<(Requester, SecretFile)> {
        let service = SERVICE_ACCOUNTS
            .into_iter()
            .find(|account| *account == name);
        if let Some(service) = service {
            let file = SecretFile::at(&self.services.join(service));
            return Some((Requester::Service(service), file));
        }
        let account = snapshot
            .accounts
            .values()
            .find(|account| account.name.as_str() == name)?;
        let file = self.secrets.compared(&account.password.secret);
        Some((Requester::Account(account.clone()), file))
    }

    /// Returns the pace of a source at an account. One that nobody uses and whose wrong passwords are past is forgotten,
    /// so that there are not more of them than passwords can be tried in a moment.
    fn pace(&self, source: Source, name: &str) -> RecentFailures {
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        if paces.len() >= MANY {
            let now = Instant::now();
            let counts = |wrong: &VecDeque<Instant>| wrong.back().is_some_and(|until| *until > now);
            paces.retain(|_, pace| {
                Arc::strong_count(pace) > 1 || pace.try_lock().is_ok_and(|wrong| counts(&wrong))
            });
        }
        Arc::clone(paces.entry((source, name.to_owned())).or_default())
    }
}

/// Waits in line until another password may be tried.
async fn turn(pace: &RecentFailures) -> tokio::sync::OwnedMutexGuard<VecDeque<Instant>> {
    let mut wrong = Arc::clone(pace).lock_owned().await;
    while let Some(until) = wrong.front().copied() {
        if until <= Instant::now() {
            wrong.pop_front();
        } else if wrong.len() >= ATTEMPTS {
            // Whoever gives up meanwhile has changed nothing.
            sleep_until(until).await;
        } else {
            break;
        }
    }
    wrong
}

/// Reads `Authorization: Basic`.
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
                "nobody can use an account whose password cannot be read"
            );
            false
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests;
