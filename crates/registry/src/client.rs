//! The client: one registry, its settings, and how every request is sent.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_ENCODING, HeaderMap, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use sluice_domain::{RegistryHost, Repository};
use url::Url;

use crate::answers;
use crate::auth::Auth;
use crate::budget::Budget;
use crate::endpoint::{Endpoint, HttpClients};
use crate::error::Error;
use crate::login::CredentialSource;
use crate::per_registry::Common;
use crate::protocol;
use crate::rate::RateLimit;
use crate::throttle::Waits;
use crate::transport::Transport;

/// How much of a refusal is told.
const MAX_REFUSAL: usize = 64 << 10;
/// How Distribution says that there is no room left, in words or by the number of the error.
const FULL_DISK: [&str; 2] = ["no space left", "\"Err\":28}"];
/// How Docker Hub says that a quota is used up, should its headers not say it.
const SPENT_QUOTA: &str = "pull rate limit";
/// The most redirects of a read, as to a content network.
const MAX_REDIRECTS: usize = 5;
/// What a registry answers that has stored what it was sent; 201 is what the specification says.
pub(crate) const STORED: [u16; 4] = [200, 201, 202, 204];
/// What it answers when something is removed, or was not there.
pub(crate) const REMOVED: [u16; 4] = [200, 202, 204, 404];
/// How long a small answer may take to arrive, however its peer spreads it.
const LONGEST_ANSWER: Duration = Duration::from_secs(180);

pub(crate) struct Shared {
    pub(crate) wires: HttpClients,
    pub(crate) common: Arc<Common>,
    pub(crate) transport: Transport,
    pub(crate) endpoint: Endpoint,
    pub(crate) auth: Auth,
    /// It was seen to delete digests but no tags.
    pub(crate) digests_only: AtomicBool,
    rate_limit: Mutex<Option<RateLimit>>,
    /// What the account may spend, if somebody counts it.
    pub(crate) budget: Option<Arc<dyn Budget>>,
}

/// A client of one registry; cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.shared.endpoint.host)
    }
}

impl Client {
    /// Makes a client.
    ///
    /// # Errors
    /// A certificate file that cannot be used.
    pub fn new(endpoint: Endpoint) -> Result<Self, Error> {
        Self::over(Transport::default(), endpoint)
    }

    /// Makes a client whose requests take this way.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn over(transport: Transport, endpoint: Endpoint) -> Result<Self, Error> {
        Self::made(transport, endpoint, None)
    }

    /// Makes a client that fetches no more manifests than its account may.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn within(
        budget: Arc<dyn Budget>,
        transport: Transport,
        endpoint: Endpoint,
    ) -> Result<Self, Error> {
        Self::made(transport, endpoint, Some(budget))
    }

    fn made(
        transport: Transport,
        endpoint: Endpoint,
        budget: Option<Arc<dyn Budget>>,
    ) -> Result<Self, Error> {
        let (wires, common) = match transport.maker() {
            Some(maker) => (HttpClients::supplied(maker), Arc::default()),
            None => (HttpClients::of(&endpoint)?, Common::of(&endpoint.base)),
        };
        Ok(Self {
            shared: Arc::new(Shared {
                wires,
                common,
                transport,
                endpoint,
                auth: Auth::default(),
                digests_only: AtomicBool::new(false),
                rate_limit: Mutex::default(),
                budget,
            }),
        })
    }

    /// Returns the name that the registry has in references.
    #[must_use]
    pub fn host(&self) -> &RegistryHost {
        &self.shared.endpoint.host
    }

    /// Says whether the certificates and keys that it was made with are still those in their files.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.shared.wires.are_current()
    }

    /// Returns what the registry said last of the pulls that are left, if it limits them.
    #[must_use]
    pub fn last_rate_limit(&self) -> Option<RateLimit> {
        let told = self.shared.rate_limit.lock();
        *told.unwrap_or_else(PoisonError::into_inner)
    }

    fn note_rate_limit(&self, headers: &HeaderMap) {
        if let Some(told) = RateLimit::read(headers) {
            let mut last = self.shared.rate_limit.lock();
            **last.as_mut().unwrap_or_else(|broken| broken.get_mut()) = Some(told);
        }
    }

    pub(crate) fn url(&self, path: &str) -> Result<Url, Error> {
        let base = &self.shared.endpoint.base;
        base.join(&format!("/v2/{path}"))
            .map_err(|_| Error::untrusted(path, "it makes no address"))
    }

    /// Says whether another client speaks to the same registry.
    pub(crate) fn is_at(&self, other: &Self) -> bool {
        self.is_own(&other.shared.endpoint.base)
    }

    /// Returns the name of the account.
    pub(crate) fn account(&self) -> Option<&str> {
        let endpoint = &self.shared.endpoint;
        let source = endpoint.source.as_ref();
        let named = source.and_then(CredentialSource::username);
        let credential = endpoint.credential.as_ref();
        named.or_else(|| credential.map(|credential| credential.username.as_str()))
    }

    pub(crate) fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.shared.endpoint.base.origin()
    }

    /// Sends a request with authentication; after a refusal it learns what is asked for and sends it once more. What the
    /// registry had no time for is sent again when it has.
    pub(crate) async fn send(
        &self,
        action: &'static str,
        what: &str,
        scopes: &[String],
        request: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let throttle = &self.shared.common.throttle;
        let (mut waits, mut learned) = (Waits::default(), false);
        loop {
            throttle.wait().await;
            let mut builder = request(&self.shared.wires.http);
            let used = self.authorization(scopes).await?;
            if let Some(authorization) = used.clone() {
                builder = builder.header(AUTHORIZATION, authorization);
            }
            let sent = self.shared.transport.send(builder);
            let answer = match sent.await {
                Ok(answer) => answer,
                Err(error) => return Err(self.unreached(action, what, error).await),
            };
            self.note_rate_limit(answer.headers());
            match answer.status() {
                StatusCode::UNAUTHORIZED if !learned => {
                    self.learn(answer.headers(), scopes, used.as_ref()).await?;
                    learned = true;
                }
                // It was not carried out, whatever it was, so it may be sent again.
                StatusCode::TOO_MANY_REQUESTS if throttle.refused(answer.headers(), &mut waits) => {
                    tracing::debug!(%what, "the registry asks to wait");
                }
                _ => return Ok(answer),
            }
        }
    }

    /// Reads something and follows redirects by hand: at most 5, never out of TLS, and with the credential only at home.
    pub(crate) async fn read(
        &self,
        how: (Method, &'static str),
        action: &'static str,
        what: &str,
        scopes: &[String],
        at: Url,
    ) -> Result<Response, Error> {
        self.read_from(how, action, what, scopes, at, 0).await
    }

    /// Reads in the same way, but only what follows the first so many bytes.
    pub(crate) async fn read_from(
        &self,
        (method, accepted): (Method, &'static str),
        action: &'static str,
        what: &str,
        scopes: &[String],
        mut at: Url,
        offset: u64,
    ) -> Result<Response, Error> {
        for _ in 0..=MAX_REDIRECTS {
            let request = |http: &reqwest::Client| {
                let request = http.request(method.clone(), at.clone());
                let request = request.header(ACCEPT, accepted);
                match offset {
                    0 => request,
                    _ => request.header(RANGE, format!("bytes={offset}-")),
                }
            };
            let answer = if self.is_own(&at) {
                self.send(action, what, scopes, request).await?
            } else {
                let wires = &self.shared.wires;
                wires
                    .zone
                    .guard()
                    .check_url(&at)
                    .map_err(|error| Error::untrusted(what, error.to_string()))?;
                let answer = self.shared.transport.send(request(&wires.elsewhere)).await;
                answer.map_err(Error::transport(action, what))?
            };
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let next = location(what, &at, &answer)?;
            if self.is_own(&at) {
                self.locate(&answer).await;
            }
            if at.scheme() == "https" && next.scheme() != "https" {
                return Err(Error::untrusted(what, "it is redirected out of TLS"));
            }
            at = next;
        }
        Err(Error::untrusted(what, "it is redirected more than 5 times"))
    }

    /// Takes note of where the registry is, which decides where it may send on to.
    async fn locate(&self, answer: &Response) {
        let (endpoint, zone) = (&self.shared.endpoint, &self.shared.wires.zone);
        if endpoint.proxy.is_none() {
            if let Some(peer) = answer.remote_addr() {
                zone.note(peer.ip());
            }
            return;
        }
        // The peer is the proxy, or may be.
        let place = endpoint
            .base
            .host_str()
            .zip(endpoint.base.port_or_known_default());
        if let Some((host, port)) = place
            && let Ok(mut found) =
                tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await
            && let Some(address) = found.next()
        {
            zone.note(address.ip());
        }
    }

    /// Turns an unwanted status into an error that tells what the registry said.
    pub(crate) async fn accept(
        &self,
        action: &'static str,
        what: &str,
        answer: Response,
        wanted: &[u16],
    ) -> Result<Response, Error> {
        let status = answer.status();
        if wanted.contains(&status.as_u16()) {
            return Ok(answer);
        }
        let now = sluice_domain::now();
        let retry_after = answers::retry_after(answer.headers(), now);
        let limit = RateLimit::read(answer.headers());
        // What a content network says may quote the signed address.
        let body = if self.is_own(answer.url()) {
            limited(what, answer, MAX_REFUSAL).await.unwrap_or_default()
        } else {
            Bytes::new()
        };
        // Nor may it quote to everybody what it was told in confidence.
        let text = self.without_secrets(&String::from_utf8_lossy(&body)).await;
        let full = status.is_server_error() && FULL_DISK.iter().any(|sign| text.contains(sign));
        let hint = if full {
            "because its disk is full; free some room there: "
        } else {
            ""
        };
        let detail: String = hint
            .chars()
            .chain(text.chars())
            .take(300)
            .flat_map(char::escape_default)
            .collect();
        let is_plain = self.shared.endpoint.base.scheme() == "http";
        if is_plain && status == 400 && protocol::SPEAKS_TLS.iter().any(|sign| text.contains(sign))
        {
            return Err(self.wrong_protocol(action, what));
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            let (registry, what) = (Box::new(self.host().clone()), what.to_owned());
            let is_quota =
                limit.is_some_and(|limit| limit.remaining == 0) || text.contains(SPENT_QUOTA);
            return Err(if is_quota {
                Error::Quota {
                    action,
                    what,
                    registry,
                    until: answers::quota_until(retry_after, limit, now),
                    detail,
                }
            } else {
                Error::Throttled {
                    action,
                    what,
                    registry,
                    retry_after,
                    detail,
                }
            });
        }
        Err(Error::Refused {
            action,
            what: what.to_owned(),
            status,
            detail,
            retry_after,
        })
    }
}

/// Reads a small body, up to a limit; what is packed is not unpacked, since nobody asked for it.
pub(crate) async fn limited(what: &str, answer: Response, limit: usize) -> Result<Bytes, Error> {
    let told = answer.headers().get(CONTENT_ENCODING);
    if told.is_some_and(|told| !told.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let reason = "the answer is packed, which it was not asked to be";
        return Err(Error::untrusted(what, reason));
    }
    let read = tokio::time::timeout(LONGEST_ANSWER, read_limited(what, answer, limit));
    read.await.map_err(|_| Error::Standstill {
        what: what.to_owned(),
    })?
}

async fn read_limited(what: &str, answer: Response, limit: usize) -> Result<Bytes, Error> {
    let too_large = || Error::untrusted(what, format!("the answer is larger than {limit} bytes"));
    let announced = answer.content_length();
    if announced.is_some_and(|length| usize::try_from(length).map_or(true, |length| length > limit))
    {
        return Err(too_large());
    }
    let mut body = BytesMut::new();
    let mut chunks = answer.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(Error::transport("read the answer for", what))?;
        if body.len() + chunk.len() > limit {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// Names a thing in a repository for messages.
pub(crate) fn what(repository: &Repository, reference: &impl fmt::Display) -> String {
    let reference = reference.to_string();
    let sign = if reference.starts_with("sha256:") {
        '@'
    } else {
        ':'
    };
    format!("{repository}{sign}{reference}")
}

/// Reads where a registry sends on to.
pub(crate) fn location(what: &str, current: &Url, answer: &Response) -> Result<Url, Error> {
    answers::location(current, answer.headers()).map_err(|reason| Error::untrusted(what, reason))
}
