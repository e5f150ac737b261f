//! One POST to an endpoint: no redirects, no proxy, bounded in time and in what is read.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT};
use reqwest::{Client, Response, StatusCode};
use sluice_domain::{AddressClass, AddressGuard, ForbiddenAddress, parse_retry_after};
use sluice_service::{certificate_fault, error_sources, tls_error};
use thiserror::Error;
use url::Url;

use super::envelope::Body;
use super::resolver::GuardedResolver;
use super::signature::SigningKeys;

/// The timeout of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections are closed before most servers do it, which would fail a delivery.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes that are read of an answer.
const MAX_READ: usize = 4 << 10;
/// The most characters of an answer that are recorded.
const MAX_EXCERPT: usize = 500;
/// The longest `Retry-After` that is respected.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);
/// The most clients that are cached; at the limit the cache is cleared.
const MAX_CLIENTS: usize = 64;

/// The clients of all endpoints: one for each address guard and set of certificate authorities.
#[derive(Debug)]
pub(crate) struct Clients {
    timeout: Duration,
    clients: Mutex<HashMap<(AddressGuard, Option<String>), Client>>,
}

/// A request to an endpoint.
#[derive(Debug)]
pub(crate) struct Post<'a> {
    /// The URL of the endpoint.
    pub(crate) url: &'a str,
    /// The addresses that may be connected to.
    pub(crate) guard: AddressGuard,
    /// The certificate authorities to trust instead of the public ones, in PEM.
    pub(crate) authorities: Option<&'a str>,
    /// The id by which the receiver detects duplicates.
    pub(crate) id: &'a str,
    /// The secrets to sign with, if the endpoint has any.
    pub(crate) keys: Option<&'a SigningKeys>,
    /// The body.
    pub(crate) body: Body,
}

/// The answer of an endpoint.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// The `Retry-After` of the answer.
    pub(crate) retry_after: Option<Duration>,
    /// The beginning of the body; for the record, not for the log.
    pub(crate) excerpt: String,
}

/// Why an endpoint did not answer.
#[derive(Debug, Error)]
pub(crate) enum Fault {
    #[error("{forbidden}{}", hint(forbidden))]
    Forbidden { forbidden: ForbiddenAddress },
    #[error("its URL is not valid")]
    Url(#[from] url::ParseError),
    #[error("its certificate is not accepted: {reason}")]
    Certificate { reason: String },
    #[error("the request timed out")]
    TimedOut,
    #[error("the connection failed")]
    Unreachable(#[source] reqwest::Error),
}

impl Clients {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            clients: Mutex::default(),
        }
    }

    fn client(&self, post: &Post<'_>) -> reqwest::Result<Client> {
        let key = (post.guard, post.authorities.map(ToOwned::to_owned));
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let mut builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            // A proxy would resolve names itself, without the address guard.
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(self.timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .dns_resolver(GuardedResolver(post.guard));
        if let Some(pem) = post.authorities {
            builder =
                builder.tls_certs_only(reqwest::Certificate::from_pem_bundle(pem.as_bytes())?);
        }
        let client = builder.build()?;
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// Sends the request and returns the answer, whatever its status is.
    pub(crate) async fn post(&self, post: Post<'_>) -> Result<Answer, Fault> {
        let url = Url::parse(post.url)?;
        post.guard
            .check_url(&url)
            .map_err(|forbidden| Fault::Forbidden { forbidden })?;
        let timestamp = Utc::now().timestamp();
        let client = self.client(&post).map_err(fault)?;
        let mut request = client
            .post(url)
            .header(CONTENT_TYPE, post.body.content_type)
            .header(USER_AGENT, concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", post.id)
            .header("webhook-timestamp", timestamp.to_string());
        if let Some(keys) = post.keys {
            let signature = keys.sign(post.id, timestamp, &post.body.bytes);
            request = request.header("webhook-signature", signature);
        }
        let answer = request.body(post.body.bytes).send().await.map_err(fault)?;
        let status = answer.status();
        let retry_after = retry_after(status, answer.headers(), Utc::now());
        Ok(Answer {
            status,
            retry_after,
            excerpt: excerpt(answer, post.keys).await,
        })
    }
}

/// Returns what a person can do about a forbidden address.
const fn hint(forbidden: &ForbiddenAddress) -> &'static str {
    match forbidden.class {
        AddressClass::Private => "; `allow_private_addresses: true` on the webhook allows it",
        AddressClass::Public | AddressClass::Never => "",
    }
}

/// Converts an error of the client. The URL may contain a token, so it is removed.
fn fault(error: reqwest::Error) -> Fault {
    let error = error.without_url();
    if let Some(forbidden) =
        error_sources(&error).find_map(|cause| cause.downcast_ref::<ForbiddenAddress>())
    {
        return Fault::Forbidden {
            forbidden: forbidden.clone(),
        };
    }
    if let Some(reason) = tls_error(&error).as_ref().and_then(certificate_fault) {
        Fault::Certificate { reason }
    } else if error.is_timeout() {
        Fault::TimedOut
    } else {
        Fault::Unreachable(error)
    }
}

/// Reads the beginning of a body; a failure while reading does not change the answer.
async fn excerpt(mut answer: Response, keys: Option<&SigningKeys>) -> String {
    let mut read = Vec::new();
    while read.len() < MAX_READ
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        read.extend(chunk.iter().take(MAX_READ - read.len()));
    }
    let text = String::from_utf8_lossy(&read);
    let text = keys.map_or_else(|| text.to_string(), |keys| keys.redact(&text));
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_EXCERPT)
        .collect::<String>()
        .trim()
        .to_owned()
}

/// Returns the `Retry-After` of a busy endpoint, in seconds or as a date, bounded.
fn retry_after(status: StatusCode, headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    if !matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    ) {
        return None;
    }
    parse_retry_after(
        headers.get(RETRY_AFTER)?.to_str().ok()?,
        now,
        MAX_RETRY_AFTER,
    )
}

#[cfg(test)]
mod tests;
