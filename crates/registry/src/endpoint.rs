//! Where a registry is, and how the wire to it is made: TLS, certificates, proxies.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use sluice_domain::address::AddressGuard;
use sluice_domain::resources::{ProxySetting, Registry};
use sluice_domain::{InvalidName, Origin, RegistryHost};
use sluice_service::{SecretFile, Secrets, Stamp};
use url::Url;

use crate::error::Error;
use crate::login::CredentialSource;
use crate::proxy;
use crate::redirect_policy::{Guard, Peer, RedirectScope};

/// How long an answer may take to begin, and to go on.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);
/// Registries that are known to have their tokens issued on another host; all others have their own host for it.
const KNOWN_REALMS: [(&str, &str); 3] = [
    (RegistryHost::DOCKER_HUB, "auth.docker.io"),
    ("docker.elastic.co", "docker-auth.elastic.co"),
    ("registry.gitlab.com", "gitlab.com"),
];

/// An account at a registry.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The user name.
    pub username: String,
    /// The password or token.
    pub password: SecretString,
}

/// A certificate that the client shows to the registry, and to nobody that the registry sends on to.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// It and what leads to its authority, in PEM.
    pub certificate: SecretFile,
    /// Its key, in PEM.
    pub key: SecretFile,
}

/// A proxy between here and a registry, its token issuer and its content network.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one for each registry")]
pub enum Proxy {
    /// What `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    Environment,
    /// This one.
    Server {
        /// Its address.
        url: Url,
        /// The user name there and the password.
        login: Option<(String, SecretFile)>,
        /// Hosts, domains and networks that are reached without it.
        bypass: Vec<String>,
    },
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
    /// Where the account is read anew at use, so that it can be rotated; what it says comes before `credential`.
    pub source: Option<CredentialSource>,
    /// Further hosts, with their ports, that may issue tokens for it.
    pub realms: Vec<String>,
    /// The authorities to trust instead of the public ones, in PEM.
    pub ca: Option<SecretFile>,
    /// Trusts the public authorities besides those of `ca`.
    pub public_authorities: bool,
    /// What the client shows of itself.
    pub client_certificate: Option<ClientCertificate>,
    /// The proxy; by default there is none, whatever the environment says.
    pub proxy: Option<Proxy>,
    /// The most bytes of layers per second to and from it, for all clients of the process together.
    pub bandwidth: Option<NonZeroU64>,
}

impl Endpoint {
    /// Makes the endpoint of a registry by its name; Docker Hub's differs from its name.
    ///
    /// # Errors
    /// A name that makes no address.
    pub fn of(host: &RegistryHost, plain_http: bool) -> Result<Self, Error> {
        let authority = if host.is_docker_hub() {
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
        Ok(Self::at(host.clone(), base))
    }

    /// Makes the endpoint of a registry at an address that may differ from its name.
    #[must_use]
    pub fn at(host: RegistryHost, base: Url) -> Self {
        let realms = KNOWN_REALMS
            .into_iter()
            .filter(|(known, _)| *known == host.as_str())
            .map(|(_, realm)| realm.to_owned())
            .collect();
        Self {
            host,
            base,
            credential: None,
            source: None,
            realms,
            ca: None,
            public_authorities: false,
            client_certificate: None,
            proxy: None,
            bandwidth: None,
        }
    }

    /// Makes the endpoint of a registry as its resource describes it; the password must be readable, and must be allowed
    /// to go to the registry and to every token issuer that the resource names.
    ///
    /// # Errors
    /// A secret that cannot be read, or may not be sent there.
    pub fn described(registry: &Registry, secrets: &Secrets) -> Result<Self, Error> {
        let mut endpoint = Self::of(&registry.host, registry.plain_http)?;
        let origins = registry
            .origins()
            .map_err(|error| endpoint.unusable(error.to_string()))?;
        if let (Some(username), Some(named)) = (&registry.username, &registry.password) {
            let password = secrets.sent(&named.secret, origins.clone());
            endpoint.credential = Some(Credential {
                username: username.clone(),
                password: endpoint.text(&password)?,
            });
            endpoint.source = Some(CredentialSource::password(username, password));
        }
        if let Some(named) = &registry.docker_config {
            let config = secrets.sent(&named.secret, origins.clone());
            endpoint.source = Some(CredentialSource::docker_config_secret(config));
        }
        let realms = registry.realms.iter().map(ToString::to_string);
        endpoint.realms.extend(realms);
        endpoint.ca = registry
            .ca
            .as_ref()
            .map(|named| secrets.public(&named.secret));
        endpoint.public_authorities = registry.public_authorities;
        if let (Some(certificate), Some(key)) = (&registry.client_certificate, &registry.client_key)
        {
            endpoint.client_certificate = Some(ClientCertificate {
                certificate: secrets.sent(&certificate.secret, origins.clone()),
                key: secrets.sent(&key.secret, origins),
            });
        }
        endpoint.proxy = match &registry.proxy {
            None => None,
            Some(ProxySetting::Environment) => Some(Proxy::Environment),
            Some(ProxySetting::Server(url)) => Some(endpoint.server(registry, url, secrets)?),
        };
        Ok(endpoint)
    }

    /// Returns the proxy of a resource; its password goes to it and not to the registry.
    fn server(&self, registry: &Registry, url: &Url, secrets: &Secrets) -> Result<Proxy, Error> {
        let origin = Origin::of_url(url)
            .ok_or_else(|| self.unusable(format!("`{url}` is no address of a proxy")))?;
        let username = registry.proxy_username.clone();
        let password = registry.proxy_password.as_ref();
        Ok(Proxy::Server {
            url: url.clone(),
            login: username.zip(password.map(|named| secrets.sent(&named.secret, vec![origin]))),
            bypass: registry.no_proxy.clone(),
        })
    }

    fn unusable(&self, reason: impl Into<String>) -> Error {
        Error::Settings {
            host: self.host.to_string(),
            reason: reason.into(),
        }
    }

    fn text(&self, file: &SecretFile) -> Result<SecretString, Error> {
        file.text()
            .map_err(|error| self.unusable(format!("{error:#}")))
    }

    fn bytes(&self, file: &SecretFile) -> Result<SecretSlice<u8>, Error> {
        file.bytes()
            .map_err(|error| self.unusable(format!("{error:#}")))
    }
}

/// The HTTP clients: for the registry itself, and for the hosts that it redirects to.
#[derive(Debug)]
pub(crate) struct HttpClients {
    pub(crate) http: reqwest::Client,
    /// Sends layers, which may take longer than any answer may.
    pub(crate) uploads: reqwest::Client,
    /// Shows no certificate of its own, and goes only where the registry may send on to.
    pub(crate) elsewhere: reqwest::Client,
    pub(crate) zone: RedirectScope,
    files: Vec<(SecretFile, Stamp)>,
}

impl HttpClients {
    /// Makes wires that send nothing themselves.
    pub(crate) fn supplied(maker: reqwest::Client) -> Self {
        Self {
            http: maker.clone(),
            uploads: maker.clone(),
            elsewhere: maker,
            zone: RedirectScope::default(),
            files: Vec::new(),
        }
    }

    pub(crate) fn of(endpoint: &Endpoint) -> Result<Self, Error> {
        AddressGuard::PrivateAllowed
            .check_url(&endpoint.base)
            .map_err(|error| endpoint.unusable(error.to_string()))?;
        let mut named: Vec<SecretFile> = endpoint.ca.iter().cloned().collect();
        if let Some(shown) = &endpoint.client_certificate {
            named.extend([shown.certificate.clone(), shown.key.clone()]);
        }
        if let Some(Proxy::Server { login, .. }) = &endpoint.proxy {
            named.extend(login.iter().map(|(_, file)| file.clone()));
        }
        // The times come first: a file that changes while it is read counts as changed.
        let files = named
            .into_iter()
            .map(|file| (file.clone(), file.stamp()))
            .collect();
        let zone = RedirectScope::default();
        Ok(Self {
            http: wire(endpoint, Peer::Registry, Some(LONGEST_SILENCE))?,
            uploads: wire(endpoint, Peer::Registry, None)?,
            elsewhere: wire(
                endpoint,
                Peer::Elsewhere(zone.clone()),
                Some(LONGEST_SILENCE),
            )?,
            zone,
            files,
        })
    }

    /// Says whether the files that they were made of are still the same.
    pub(crate) fn are_current(&self) -> bool {
        self.files.iter().all(|(file, then)| file.stamp() == *then)
    }
}

/// Makes what sends over the wire.
///
/// The time limit of reqwest counts from the beginning of a request, and so ends an upload that goes on for longer.
fn wire(
    endpoint: &Endpoint,
    peer: Peer,
    silence: Option<Duration>,
) -> Result<reqwest::Client, Error> {
    let mut builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .connect_timeout(Duration::from_secs(10))
        .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")));
    if let Some(silence) = silence {
        builder = builder.read_timeout(silence);
    }
    let shows_certificate = matches!(peer, Peer::Registry);
    if let Some(guard) = guard(endpoint, peer) {
        builder = builder.dns_resolver(Arc::new(guard));
    }
    builder = match &endpoint.proxy {
        None => builder.no_proxy(),
        Some(Proxy::Environment) => builder
            .no_proxy()
            .proxy(proxy::of_environment(|name| std::env::var_os(name))),
        Some(Proxy::Server { url, login, bypass }) => {
            builder
                .no_proxy()
                .proxy(server(endpoint, url, login.as_ref(), bypass)?)
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
    if let Some(shown) = endpoint
        .client_certificate
        .as_ref()
        .filter(|_| shows_certificate)
    {
        let mut pem = endpoint.bytes(&shown.certificate)?.expose_secret().to_vec();
        pem.push(b'\n');
        pem.extend(endpoint.bytes(&shown.key)?.expose_secret());
        // The error of the parser is left out, since what it was given is secret.
        let identity = reqwest::Identity::from_pem(&pem).map_err(|_| {
            endpoint.unusable(format!(
                "{} and {} hold no certificate with its key in PEM",
                shown.certificate, shown.key
            ))
        })?;
        builder = builder.identity(identity);
    }
    builder
        .build()
        .map_err(|error| endpoint.unusable(error.to_string()))
}

/// Makes what resolves the names of a peer.
fn guard(endpoint: &Endpoint, peer: Peer) -> Option<Guard> {
    let proxy = match &endpoint.proxy {
        None => None,
        // Names are resolved by the proxy, and which host is the proxy is not known here.
        Some(Proxy::Environment) => return None,
        Some(Proxy::Server { url, .. }) => url.host_str().map(str::to_owned),
    };
    Some(Guard { peer, proxy })
}

fn server(
    endpoint: &Endpoint,
    url: &Url,
    login: Option<&(String, SecretFile)>,
    bypass: &[String],
) -> Result<reqwest::Proxy, Error> {
    let entries = bypass.iter().map(|entry| entry.parse());
    let bypass: Result<Vec<_>, InvalidName> = entries.collect();
    let bypass = bypass.map_err(|error| endpoint.unusable(error.to_string()))?;
    let mut proxy = proxy::passing(bypass, {
        let url = url.clone();
        move |_| Some(url.clone())
    });
    if let Some((username, file)) = login {
        let password = endpoint.text(file)?;
        proxy = proxy.basic_auth(username, password.expose_secret());
    }
    Ok(proxy)
}
