//! The client: one registry, its settings, and how every request is sent.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use reqwest::header::{AUTHORIZATION, HeaderMap, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode};
use secrecy::SecretString;
use sluice_domain::{RegistryHost, Repository};
use url::Url;

use crate::auth::Auth;
use crate::error::Error;

/// How much of a refusal is told.
const MAX_REFUSAL: usize = 64 << 10;

/// An account at a registry.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The user name.
    pub username: String,
    /// The password or token.
    pub password: SecretString,
}

/// Where a registry is and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The name it has in references.
    pub host: RegistryHost,
    /// Its address.
    pub base: Url,
    /// The account, if not anonymous.
    pub credential: Option<Credential>,
    /// Further hosts, with their ports, that may issue tokens for it.
    pub realms: Vec<String>,
    /// A PEM file with the authorities to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
}

impl Endpoint {
    /// Makes the endpoint of a registry by its name; Docker Hub's differs from its name.
    ///
    /// # Errors
    /// A name that makes no address.
    pub fn of(host: &RegistryHost, plain_http: bool) -> Result<Self, Error> {
        let hub = host.as_str() == "docker.io";
        let authority = if hub {
            "registry-1.docker.io"
        } else {
            host.as_str()
        };
        let scheme = if plain_http { "http" } else { "https" };
        let base =
            Url::parse(&format!("{scheme}://{authority}")).map_err(|error| Error::Settings {
                host: host.to_string(),
                reason: error.to_string(),
            })?;
        let realms = if hub {
            vec!["auth.docker.io".to_owned()]
        } else {
            Vec::new()
        };
        Ok(Self {
            host: host.clone(),
            base,
            credential: None,
            realms,
            ca_file: None,
        })
    }
}

pub(crate) struct Shared {
    pub(crate) http: reqwest::Client,
    pub(crate) endpoint: Endpoint,
    pub(crate) auth: Auth,
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
        let settings = |reason: String| Error::Settings {
            host: endpoint.host.to_string(),
            reason,
        };
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(60))
            .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")));
        if let Some(file) = &endpoint.ca_file {
            let pem = std::fs::read(file)
                .map_err(|error| settings(format!("`{}`: {error}", file.display())))?;
            let authorities = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| settings(error.to_string()))?;
            builder = builder.tls_certs_only(authorities);
        }
        let http = builder
            .build()
            .map_err(|error| settings(error.to_string()))?;
        Ok(Self {
            shared: Arc::new(Shared {
                http,
                endpoint,
                auth: Auth::default(),
            }),
        })
    }

    /// Returns the name that the registry has in references.
    #[must_use]
    pub fn host(&self) -> &RegistryHost {
        &self.shared.endpoint.host
    }

    pub(crate) fn url(&self, path: &str) -> Result<Url, Error> {
        let base = &self.shared.endpoint.base;
        base.join(&format!("/v2/{path}"))
            .map_err(|_| Error::untrusted(path, "it makes no address"))
    }

    pub(crate) fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.shared.endpoint.base.origin()
    }

    /// Sends a request with authentication; after a refusal it learns what is asked for and sends it once more.
    pub(crate) async fn send(
        &self,
        action: &'static str,
        what: &str,
        scopes: &[String],
        request: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response, Error> {
        for last in [false, true] {
            let mut builder = request(&self.shared.http);
            if let Some(authorization) = self.authorization(scopes).await? {
                builder = builder.header(AUTHORIZATION, authorization);
            }
            let answer = builder
                .send()
                .await
                .map_err(Error::transport(action, what))?;
            if answer.status() != StatusCode::UNAUTHORIZED || last {
                return Ok(answer);
            }
            self.learn(answer.headers(), scopes).await?;
        }
        Err(Error::untrusted(
            what,
            "the registry keeps asking for authentication",
        ))
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
        let retry_after = retry_after(answer.headers());
        let body = limited(what, answer, MAX_REFUSAL).await.unwrap_or_default();
        let detail: String = String::from_utf8_lossy(&body)
            .chars()
            .take(300)
            .flat_map(char::escape_default)
            .collect();
        Err(Error::Refused {
            action,
            what: what.to_owned(),
            status,
            detail,
            retry_after,
        })
    }
}

/// Reads a body up to a limit.
pub(crate) async fn limited(what: &str, answer: Response, limit: usize) -> Result<Bytes, Error> {
    let too_large = || Error::untrusted(what, format!("the answer is larger than {limit} bytes"));
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

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds.min(86_400)))
}
