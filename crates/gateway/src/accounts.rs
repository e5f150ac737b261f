//! Whose password it is. A wrong one, an unknown account and an unreadable file look the same and take the same time.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretString};
use sluice_domain::{AccountName, SERVICE_ACCOUNTS};
use sluice_service::secret_file;
use sluice_state::Snapshot;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::grants::Requester;
use crate::secret::{authorization, is_same};

/// How long every refusal takes.
const REFUSAL: Duration = Duration::from_millis(500);
/// How many passwords of one account are tried at once: with the time of a refusal, eight wrong ones a second.
const ATTEMPTS_AT_ONCE: usize = 4;
/// How long somebody waits for their turn behind wrong passwords.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why nobody is let in.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Account and password do not go together.
    Wrong,
    /// Too many wrong passwords of this account are being tried.
    Busy,
}

/// Where passwords are.
#[derive(Debug)]
pub(crate) struct Accounts {
    /// The folder with those of Sluice's services.
    services: PathBuf,
    /// The attempts under way, by account.
    attempts: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Accounts {
    pub(crate) fn new(services: PathBuf) -> Self {
        Self {
            services,
            attempts: Mutex::default(),
        }
    }

    /// Finds out who sends a request.
    pub(crate) async fn identify(
        &self,
        snapshot: &Snapshot,
        headers: &HeaderMap,
    ) -> Result<Requester, Refused> {
        if !headers.contains_key(AUTHORIZATION) {
            return Ok(Requester::Anonymous);
        }
        let (name, password) = credential(headers).unwrap_or_default();
        let known = self.look_up(snapshot, &name);
        // The passwords of services are random; to wait behind a stranger's guesses would only stop the service.
        let turns = match &known {
            Some((Requester::Service(_), _)) => None,
            Some(_) => Some(self.turns(&name)),
            None => Some(self.turns("")),
        };
        let _turn = match turns {
            None => None,
            Some(turns) => match tokio::time::timeout(PATIENCE, turns.acquire_owned()).await {
                Ok(turn) => turn.ok(),
                Err(_) => return Err(Refused::Busy),
            },
        };
        let begun = Instant::now();
        let account = known
            .as_ref()
            .map(|(requester, _)| requester.name().to_owned());
        if let Some((requester, file)) = known
            && is_password(file, password).await
        {
            return Ok(requester);
        }
        // What is no account of ours is not repeated in the log: people type passwords into the wrong field.
        tracing::warn!(account, "a wrong account or password was refused");
        tokio::time::sleep_until(begun + REFUSAL).await;
        Err(Refused::Wrong)
    }

    fn look_up(&self, snapshot: &Snapshot, name: &str) -> Option<(Requester, PathBuf)> {
        // The grammar of names keeps a name from leading out of the folder.
        let name: AccountName = name.parse().ok()?;
        let service = SERVICE_ACCOUNTS
            .into_iter()
            .find(|account| *account == name.as_str());
        if let Some(service) = service {
            return Some((Requester::Service(service), self.services.join(service)));
        }
        let account = snapshot
            .accounts
            .values()
            .find(|account| account.name.as_str() == name.as_str())?;
        let file = account.password_file.clone();
        Some((Requester::Account(account.clone()), file))
    }

    /// Returns the turns of an account; those of no account share theirs. What nobody uses is forgotten.
    fn turns(&self, name: &str) -> Arc<Semaphore> {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts.retain(|_, turns| Arc::strong_count(turns) > 1);
        let turns = attempts
            .entry(name.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(ATTEMPTS_AT_ONCE)));
        Arc::clone(turns)
    }
}

/// Reads `Authorization: Basic`.
fn credential(headers: &HeaderMap) -> Option<(String, SecretString)> {
    let decoded = STANDARD.decode(authorization(headers, "basic")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.into()))
}

async fn is_password(file: PathBuf, password: SecretString) -> bool {
    let read = tokio::task::spawn_blocking(move || secret_file(&file)).await;
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
