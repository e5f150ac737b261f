//! One POST to an endpoint: no redirects, no proxy, bounded in time and in what is read.

use std::error::Error as _;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT};
use reqwest::{Client, Response, StatusCode};
use thiserror::Error;
use tokio::time::Instant;
use url::Url;

use crate::address::{NotPublic, PublicOnly, check_literal};
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

/// The clients of all endpoints.
#[derive(Debug)]
pub(crate) struct Clients {
    public: Client,
    any: Client,
}

/// What is posted.
#[derive(Debug)]
pub(crate) struct Post<'a> {
    /// Where to.
    pub(crate) url: &'a str,
    /// Whether that may be in a private network.
    pub(crate) private: bool,
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
    #[error(transparent)]
    NotPublic(#[from] NotPublic),
    #[error("its address is not valid")]
    Url(#[from] url::ParseError),
    #[error("it did not answer in time")]
    TimedOut,
    #[error("it could not be reached")]
    Unreachable(#[source] reqwest::Error),
}

impl Clients {
    /// # Errors
    /// A TLS library that cannot be set up.
    pub(crate) fn new(timeout: Duration) -> reqwest::Result<Self> {
        let builder = || {
            Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                // A proxy would look names up itself, where no address is checked.
                .no_proxy()
                .connect_timeout(CONNECT_LIMIT)
                .timeout(timeout)
                .pool_idle_timeout(IDLE_LIMIT)
        };
        Ok(Self {
            public: builder().dns_resolver(PublicOnly).build()?,
            any: builder().build()?,
        })
    }

    /// Posts and returns the answer, whatever it is.
    pub(crate) async fn post(&self, post: Post<'_>) -> Result<Answer, Fault> {
        let url = Url::parse(post.url)?;
        let client = if post.private {
            &self.any
        } else {
            check_literal(&url)?;
            &self.public
        };
        let timestamp = Utc::now().timestamp();
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

/// The address may hold a token, so it is in no error.
fn fault(error: reqwest::Error) -> Fault {
    let error = error.without_url();
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(refused) = cause.downcast_ref::<NotPublic>() {
            return refused.clone().into();
        }
        source = cause.source();
    }
    if error.is_timeout() {
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
    let text = keys.map_or_else(|| text.to_string(), |keys| keys.blot(&text));
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
