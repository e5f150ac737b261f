//! The client of one registry: its connection, its authentication, and how every request is sent.

pub(crate) mod access_check;
pub(crate) mod attachments;
pub(crate) mod authentication;
mod blobs;
mod deletion;
mod listing;
pub(crate) mod manifests;
mod referrers;
pub(crate) mod registry_state;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use reqwest::header::{ACCEPT, AUTHORIZATION, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use sluice_domain::{RegistryHost, Repository};
use url::Url;

use crate::endpoint::Endpoint;
use crate::endpoint::credential_source::CredentialSource;
use crate::error::Error;
use crate::http::connection::Connection;
use crate::http::connection::transport::Transport;
use crate::http::rate_limit::RateLimit;
use crate::http::rate_limit::budget::{AccountBudget, Budget};
use crate::http::rate_limit::throttle::Waits;
use crate::http::refusal::refusal;
use crate::http::response::parse_location;

use self::authentication::Authenticator;
use self::registry_state::RegistryState;

/// The most redirects of a read, as to a content delivery network.
const MAX_REDIRECTS: usize = 5;
/// The statuses of a successful write; 201 is that of the specification.
pub(crate) const STORED: [u16; 4] = [200, 201, 202, 204];
/// The statuses of a deletion after which the object does not exist.
pub(crate) const DELETED: [u16; 4] = [200, 202, 204, 404];

pub(crate) struct Shared {
    pub(crate) connection: Connection,
    pub(crate) authenticator: Authenticator,
    pub(crate) state: Arc<RegistryState>,
    /// The registry was seen to delete digests but no tags.
    pub(crate) deletes_digests_only: AtomicBool,
}

/// A client of one registry; cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

/// A read request: its method and what it accepts.
#[derive(Clone)]
pub(crate) struct Read {
    pub(crate) method: Method,
    pub(crate) accept: &'static str,
    pub(crate) action: &'static str,
    /// The number of bytes to leave out at the start.
    pub(crate) offset: u64,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({})", self.host())
    }
}

impl Client {
    /// Returns a client for an endpoint.
    ///
    /// # Errors
    /// A certificate file that cannot be used.
    pub fn new(endpoint: Endpoint) -> Result<Self, Error> {
        Self::with_transport(Transport::default(), endpoint)
    }

    /// Returns a client whose requests go through a transport.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_transport(transport: Transport, endpoint: Endpoint) -> Result<Self, Error> {
        Self::build(transport, endpoint, None)
    }

    /// Returns a client that reserves its requests in the budget of its account.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_budget(
        budget: Arc<dyn Budget>,
        transport: Transport,
        endpoint: Endpoint,
    ) -> Result<Self, Error> {
        Self::build(transport, endpoint, Some(budget))
    }

    fn build(
        transport: Transport,
        endpoint: Endpoint,
        budget: Option<Arc<dyn Budget>>,
    ) -> Result<Self, Error> {
        let is_simulated = transport.simulated_client().is_some();
        let state = if is_simulated {
            Arc::default()
        } else {
            RegistryState::of(&endpoint.base)
        };
        let budget = AccountBudget::new(endpoint.host.clone(), budget);
        let throttle = Arc::clone(&state.throttle);
        Ok(Self {
            shared: Arc::new(Shared {
                connection: Connection::new(endpoint, transport, throttle, budget)?,
                authenticator: Authenticator::default(),
                state,
                deletes_digests_only: AtomicBool::new(false),
            }),
        })
    }

    /// Returns the name of the registry in image references.
    #[must_use]
    pub fn host(&self) -> &RegistryHost {
        self.shared.connection.host()
    }

    /// Returns whether the files of certificates and keys are unchanged since the client was made.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.shared.connection.clients.are_current()
    }

    /// Returns the rate limit that the registry reported last, if it has one.
    #[must_use]
    pub fn last_rate_limit(&self) -> Option<RateLimit> {
        self.shared.connection.last_rate_limit()
    }

    /// Returns the URL of a path below `/v2/`.
    pub(crate) fn url(&self, path: &str) -> Result<Url, Error> {
        self.shared.connection.url(path)
    }

    /// Returns whether a URL is on the origin of the registry.
    pub(crate) fn is_own(&self, url: &Url) -> bool {
        self.shared.connection.is_own(url)
    }

    /// Returns whether another client has the same registry.
    pub(crate) fn is_same_registry(&self, other: &Self) -> bool {
        self.is_own(&other.shared.connection.endpoint.base)
    }

    /// Returns the user name, if it is known without I/O.
    pub(crate) fn account(&self) -> Option<&str> {
        let endpoint = &self.shared.connection.endpoint;
        let source = endpoint.source.as_ref();
        let username = source.and_then(CredentialSource::username);
        let credential = endpoint.credential.as_ref();
        username.or_else(|| credential.map(|credential| credential.username.as_str()))
    }

    /// Sends a request with authentication: once more after a 401 with the token that it asks for, and again after a
    /// 429 when the throttle allows.
    pub(crate) async fn send(
        &self,
        action: &'static str,
        object: &str,
        scopes: &[String],
        request: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let (connection, authenticator) = (&self.shared.connection, &self.shared.authenticator);
        let (mut waits, mut is_challenged) = (Waits::default(), false);
        loop {
            connection.throttle.wait().await;
            let mut builder = request(&connection.clients.registry);
            let used = authenticator.authorization(connection, scopes).await?;
            if let Some(authorization) = used.clone() {
                builder = builder.header(AUTHORIZATION, authorization);
            }
            let response = connection.send(action, object, builder).await?;
            let headers = response.headers();
            match response.status() {
                StatusCode::UNAUTHORIZED if !is_challenged => {
                    let challenged =
                        authenticator.accept_challenge(connection, headers, scopes, used.as_ref());
                    challenged.await?;
                    is_challenged = true;
                }
                // The registry did not process the request, so it may be sent again, whatever it was.
                StatusCode::TOO_MANY_REQUESTS if connection.throttle.pause(headers, &mut waits) => {
                    tracing::debug!(%object, "429 Too Many Requests; waiting");
                }
                _ => return Ok(response),
            }
        }
    }

    /// Reads with redirects: at most 5, never out of TLS, and with the credential on the own origin only.
    pub(crate) async fn read(
        &self,
        read: &Read,
        object: &str,
        scopes: &[String],
        mut url: Url,
    ) -> Result<Response, Error> {
        let connection = &self.shared.connection;
        for _ in 0..=MAX_REDIRECTS {
            let request = |client: &reqwest::Client| {
                let request = client.request(read.method.clone(), url.clone());
                let request = request.header(ACCEPT, read.accept);
                match read.offset {
                    0 => request,
                    offset => request.header(RANGE, format!("bytes={offset}-")),
                }
            };
            let response = if self.is_own(&url) {
                self.send(read.action, object, scopes, request).await?
            } else {
                let redirected = (&url, request(&connection.clients.redirects));
                connection
                    .send_to_redirect(read.action, object, redirected)
                    .await?
            };
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let next = location(object, &url, &response)?;
            if self.is_own(&url) {
                connection.record_address(&response).await;
            }
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(Error::untrusted(object, "it is redirected out of TLS"));
            }
            url = next;
        }
        Err(Error::untrusted(
            object,
            "it is redirected more than 5 times",
        ))
    }

    /// Returns a response with one of the expected statuses, or else an error with an excerpt of its body.
    pub(crate) async fn expect_status(
        &self,
        action: &'static str,
        object: &str,
        response: Response,
        expected: &[u16],
    ) -> Result<Response, Error> {
        if expected.contains(&response.status().as_u16()) {
            return Ok(response);
        }
        let connection = &self.shared.connection;
        let secrets = self.shared.authenticator.secrets(connection).await;
        Err(refusal(connection, action, object, response, &secrets).await)
    }
}

/// Returns the name of a manifest or blob in a repository, for messages.
pub(crate) fn object_name(repository: &Repository, reference: &impl fmt::Display) -> String {
    let reference = reference.to_string();
    let sign = if reference.starts_with("sha256:") {
        '@'
    } else {
        ':'
    };
    format!("{repository}{sign}{reference}")
}

/// Returns the target of a redirect or an upload.
pub(crate) fn location(object: &str, current: &Url, response: &Response) -> Result<Url, Error> {
    parse_location(current, response.headers()).map_err(|reason| Error::untrusted(object, reason))
}
