//! The HTTP clients of one registry, with TLS, certificates, proxy and address guard.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use sluice_domain::{AddressGuard, InvalidName};
use sluice_service::{SecretFile, SecretVersion};
use url::Url;

use crate::endpoint::{Endpoint, Proxy};
use crate::error::Error;
use crate::http::connection::proxy;
use crate::http::connection::redirect_policy::{GuardedResolver, Peer, RedirectScope};

/// How long a response may take to start, and to continue.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The HTTP clients: for the registry itself, and for the hosts that it redirects to.
#[derive(Debug)]
pub(crate) struct HttpClients {
    pub(crate) registry: reqwest::Client,
    /// For uploads, which may take longer than any response may.
    pub(crate) uploads: reqwest::Client,
    /// For redirects: without the client certificate, and only to addresses that the redirect policy allows.
    pub(crate) redirects: reqwest::Client,
    pub(crate) redirect_scope: RedirectScope,
    /// The certificates and keys that they were built with.
    files: Vec<(SecretFile, SecretVersion)>,
}

impl HttpClients {
    /// Uses one client for everything, as a simulation does.
    pub(crate) fn simulated(client: reqwest::Client) -> Self {
        Self {
            registry: client.clone(),
            uploads: client.clone(),
            redirects: client,
            redirect_scope: RedirectScope::default(),
            files: Vec::new(),
        }
    }

    /// Builds the clients for an endpoint.
    pub(crate) fn new(endpoint: &Endpoint) -> Result<Self, Error> {
        AddressGuard::PrivateAllowed
            .check_url(&endpoint.base)
            .map_err(|error| endpoint.unusable(error.to_string()))?;
        let mut named: Vec<SecretFile> = endpoint.ca.iter().cloned().collect();
        if let Some(client) = &endpoint.client_certificate {
            named.extend([client.certificate.clone(), client.key.clone()]);
        }
        if let Some(Proxy::Server { login, .. }) = &endpoint.proxy {
            named.extend(login.iter().map(|(_, file)| file.clone()));
        }
        // The times come first: a file that changes while it is read counts as changed.
        let files = named
            .into_iter()
            .map(|file| (file.clone(), file.version()))
            .collect();
        let redirect_scope = RedirectScope::default();
        Ok(Self {
            registry: build_client(endpoint, Peer::Registry, Some(READ_TIMEOUT))?,
            uploads: build_client(endpoint, Peer::Registry, None)?,
            redirects: build_client(
                endpoint,
                Peer::Redirect(redirect_scope.clone()),
                Some(READ_TIMEOUT),
            )?,
            redirect_scope,
            files,
        })
    }

    /// Returns whether the files that they were built with are unchanged.
    pub(crate) fn are_current(&self) -> bool {
        self.files
            .iter()
            .all(|(file, then)| file.version() == *then)
    }
}

/// Builds an HTTP client.
///
/// The read timeout of reqwest counts from the start of a request, so it would end a long upload.
fn build_client(
    endpoint: &Endpoint,
    peer: Peer,
    read_timeout: Option<Duration>,
) -> Result<reqwest::Client, Error> {
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(Duration::from_secs(10))
        .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")));
    if let Some(timeout) = read_timeout {
        builder = builder.read_timeout(timeout);
    }
    let has_certificate = matches!(peer, Peer::Registry);
    if let Some(resolver) = guarded_resolver(endpoint, peer) {
        builder = builder.dns_resolver(Arc::new(resolver));
    }
    builder = match &endpoint.proxy {
        None => builder.no_proxy(),
        Some(Proxy::Environment) => builder
            .no_proxy()
            .proxy(proxy::from_environment(|name| std::env::var_os(name))),
        Some(Proxy::Server { url, login, bypass }) => {
            builder
                .no_proxy()
                .proxy(proxy_server(endpoint, url, login.as_ref(), bypass)?)
        }
    };
    if let Some(file) = &endpoint.ca {
        // The error of the parser is left out, since a resource may name any secret here.
        let unusable = || endpoint.unusable(format!("{file} holds no certificates"));
        let pem = endpoint.bytes(file)?;
        let authorities =
            reqwest::Certificate::from_pem_bundle(pem.expose_secret()).map_err(|_| unusable())?;
        if authorities.is_empty() {
            return Err(unusable());
        }
        builder = if endpoint.public_authorities {
            builder.tls_certs_merge(authorities)
        } else {
            builder.tls_certs_only(authorities)
        };
    }
    if let Some(client) = endpoint
        .client_certificate
        .as_ref()
        .filter(|_| has_certificate)
    {
        let mut pem = endpoint
            .bytes(&client.certificate)?
            .expose_secret()
            .to_vec();
        pem.push(b'\n');
        pem.extend(endpoint.bytes(&client.key)?.expose_secret());
        // The error of the parser is left out, since what it was given is secret.
        let identity = reqwest::Identity::from_pem(&pem).map_err(|_| {
            endpoint.unusable(format!(
                "{} and {} hold no certificate with its key in PEM",
                client.certificate, client.key
            ))
        })?;
        builder = builder.identity(identity);
    }
    builder
        .build()
        .map_err(|error| endpoint.unusable(error.to_string()))
}

/// Returns the resolver for a peer, which refuses forbidden addresses.
fn guarded_resolver(endpoint: &Endpoint, peer: Peer) -> Option<GuardedResolver> {
    let proxy = match &endpoint.proxy {
        None => None,
        // Names are resolved by the proxy, and which host is the proxy is not known here.
        Some(Proxy::Environment) => return None,
        Some(Proxy::Server { url, .. }) => url.host_str().map(str::to_owned),
    };
    Some(GuardedResolver { peer, proxy })
}

fn proxy_server(
    endpoint: &Endpoint,
    url: &Url,
    login: Option<&(String, SecretFile)>,
    bypass: &[String],
) -> Result<reqwest::Proxy, Error> {
    let entries = bypass.iter().map(|entry| entry.parse());
    let bypass: Result<Vec<_>, InvalidName> = entries.collect();
    let bypass = bypass.map_err(|error| endpoint.unusable(error.to_string()))?;
    let mut proxy = proxy::with_bypass(bypass, {
        let url = url.clone();
        move |_| Some(url.clone())
    });
    if let Some((username, file)) = login {
        let password = endpoint.text(file)?;
        proxy = proxy.basic_auth(username, password.expose_secret());
    }
    Ok(proxy)
}
