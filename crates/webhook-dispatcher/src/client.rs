//! One POST to an endpoint: no redirects, no proxy, bounded in time and in what is read.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT};
use reqwest::{Client, Response, StatusCode};
use sluice_domain::address::{AddressClass, AddressGuard, ForbiddenAddress};
use sluice_service::{certificate_fault, tls_error};
use thiserror::Error;
use tokio::time::Instant;
use url::Url;

use crate::address::Guarded;
use crate::envelope;
use crate::signature::Keys;

/// How long a connection may take to be made.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Idle connections are closed before most servers do it, which would fail a delivery.
const IDLE_LIMIT: Duration = Duration::from_secs(5);
/// How much of an answer is read.
const MOST_READ: usize = 4 << 10;
/// How much of an answer is kept, in characters.
const MOST_KEPT: usize = 500;
/// The longest wait that an endpoint may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

/// How many clients are kept; each sort of webhook has one.
const MOST_CLIENTS: usize = 64;

/// The clients of all endpoints: one for those that may be in a private network or not, and trust the same authorities.
#[derive(Debug)]
pub(crate) struct Clients {
    timeout: Duration,
    made: Mutex<HashMap<(bool, Option<String>), Client>>,
}

/// What is posted.
#[derive(Debug)]
pub(crate) struct Post<'a> {
    /// Where to.
    pub(crate) url: &'a str,
    /// Whether that may be in a private network.
    pub(crate) private: bool,
    /// The authorities to trust instead of the public ones, in PEM.
    pub(crate) authorities: Option<&'a str>,
    /// The id by which the receiver knows an event that comes again.
    pub(crate) id: &'a str,
    /// The secrets to sign with, if the endpoint has any.
    pub(crate) keys: Option<&'a Keys>,
    /// The body.
    pub(crate) body: Vec<u8>,
}

/// What an endpoint answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// How long it asks to wait.
    pub(crate) retry_after: Option<Duration>,
    /// The beginning of its body; for the record, not for the log.
    pub(crate) excerpt: String,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(crate) enum Fault {
    #[error("{forbidden}{}", hint(forbidden))]
    Forbidden { forbidden: ForbiddenAddress },
    #[error("its address is not valid")]
    Url(#[from] url::ParseError),
    #[error("its certificate is not accepted: {reason}")]
    Certificate { reason: String },
    #[error("it did not answer in time")]
    TimedOut,
    #[error("it could not be reached")]
    Unreachable(#[source] reqwest::Error),
}

impl Clients {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            made: Mutex::default(),
        }
    }

    /// Returns the client that a post is made with.
    fn client(&self, guard: AddressGuard, post: &Post<'_>) -> reqwest::Result<Client> {
        let key = (post.private, post.authorities.map(ToOwned::to_owned));
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = made.get(&key) {
            return Ok(client.clone());
        }
        let mut builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            // A proxy would look names up itself, where no address is checked.
            .no_proxy()
            .connect_timeout(CONNECT_LIMIT)
            .timeout(self.timeout)
            .pool_idle_timeout(IDLE_LIMIT)
            .dns_resolver(Guarded(guard));
        if let Some(pem) = post.authorities {
            builder =
                builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem.as_bytes())?);
        }
        let client = builder.build()?;
        // Those of authorities that were exchanged are not wanted any more.
        if made.len() >= MOST_CLIENTS {
            made.clear();
        }
        made.insert(key, client.clone());
        Ok(client)
    }

    /// Posts and returns the answer, whatever it is.
    pub(crate) async fn post(&self, post: Post<'_>) -> Result<Answer, Fault> {
        let url = Url::parse(post.url)?;
        let guard = if post.private {
            AddressGuard::PrivateAllowed
        } else {
            AddressGuard::PublicOnly
        };
        guard
            .check_url(&url)
            .map_err(|forbidden| Fault::Forbidden { forbidden })?;
        let timestamp = Utc::now().timestamp();
        let client = self.client(guard, &post).map_err(fault)?;
        let mut request = client
            .post(url)
            .header(CONTENT_TYPE, envelope::CONTENT_TYPE)
            .header(USER_AGENT, concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", post.id)
            .header("webhook-timestamp", timestamp.to_string());
        if let Some(keys) = post.keys {
            let signature = keys.sign(post.id, timestamp, &post.body);
            request = request.header("webhook-signature", signature);
        }
        let answer = request.body(post.body).send().await.map_err(fault)?;
        let status = answer.status();
        let retry_after = wait_asked_for(status, answer.headers(), Utc::now());
        Ok(Answer {
            status,
            retry_after,
            excerpt: excerpt(answer, post.keys).await,
        })
    }
}

/// Says what a person can do about an address that is not connected to.
const fn hint(forbidden: &ForbiddenAddress) -> &'static str {
    match forbidden.class {
        AddressClass::Private => "; `allow_private_addresses: true` on the webhook allows it",
        AddressClass::Public | AddressClass::Never => "",
    }
}

/// The address may hold a token, so it is in no error.
fn fault(error: reqwest::Error) -> Fault {
    let error = error.without_url();
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(forbidden) = cause.downcast_ref::<ForbiddenAddress>() {
            return Fault::Forbidden {
                forbidden: forbidden.clone(),
            };
        }
        source = cause.source();
    }
    if let Some(reason) = tls_error(&error).as_ref().and_then(certificate_fault) {
        Fault::Certificate { reason }
    } else if error.is_timeout() {
        Fault::TimedOut
    } else {
        Fault::Unreachable(error)
    }
}

/// Reads the beginning of a body; what cannot be read changes nothing of the answer.
async fn excerpt(mut answer: Response, keys: Option<&Keys>) -> String {
    let mut read = Vec::new();
    while read.len() < MOST_READ
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        read.extend(chunk.iter().take(MOST_READ - read.len()));
    }
    let text = String::from_utf8_lossy(&read);
    let text = keys.map_or_else(|| text.to_string(), |keys| keys.redact(&text));
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MOST_KEPT)
        .collect::<String>()
        .trim()
        .to_owned()
}

/// Returns how long a busy endpoint asks to wait, in seconds or until a date, bounded.
fn wait_asked_for(status: StatusCode, headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    if !matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    ) {
        return None;
    }
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => LONGEST_WAIT,
        Err(_) => {
            let until = DateTime::parse_from_rfc2822(text).ok()?;
            (until.to_utc() - now).to_std().unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

/// Measures how long something takes, in milliseconds.
pub(crate) fn milliseconds_since(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
