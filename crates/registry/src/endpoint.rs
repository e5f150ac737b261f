//! Where a registry is, and how the wire to it is made: TLS, certificates, proxies.

use std::fs;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::{ExposeSecret as _, SecretString};
use sluice_domain::RegistryHost;
use sluice_domain::resources::{ProxySetting, Registry};
use sluice_service::secret_file;
use url::Url;

use crate::away::{Guard, Zone};
use crate::error::Error;
use crate::login::CredentialSource;

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
    /// The PEM file with it and what leads to its authority.
    pub certificate_file: PathBuf,
    /// The PEM file with its key.
    pub key_file: PathBuf,
}

/// A proxy between here and a registry, its token issuer and its content network.
#[derive(Debug, Clone)]
pub enum Proxy {
    /// What `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    Environment,
    /// This one.
    Server {
        /// Its address.
        url: Url,
        /// The user name there and the file with the password.
        login: Option<(String, PathBuf)>,
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
    /// A PEM file with the authorities to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
    /// Trusts the public authorities besides those of `ca_file`.
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
            ca_file: None,
            public_authorities: false,
            client_certificate: None,
            proxy: None,
            bandwidth: None,
        }
    }

    /// Makes the endpoint of a registry as its resource describes it; a password file must be readable.
    ///
    /// # Errors
    /// A secret that cannot be read.
    pub fn described(registry: &Registry) -> Result<Self, Error> {
        let mut endpoint = Self::of(&registry.host, registry.plain_http)?;
        let settings = |error: anyhow::Error| Error::Settings {
            host: registry.host.to_string(),
            reason: format!("{error:#}"),
        };
        if let (Some(username), Some(file)) = (&registry.username, &registry.password_file) {
            endpoint.credential = Some(Credential {
                username: username.clone(),
                password: secret_file(file).map_err(settings)?,
            });
            endpoint.source = Some(CredentialSource::password_file(username, file));
        }
        if let Some(file) = &registry.docker_config_file {
            endpoint.source = Some(CredentialSource::docker_config([file.clone()]));
        }
        let realms = registry.realms.iter().map(ToString::to_string);
        endpoint.realms.extend(realms);
        endpoint.ca_file.clone_from(&registry.ca_file);
        endpoint.public_authorities = registry.public_authorities;
        if let (Some(certificate), Some(key)) =
            (&registry.client_certificate_file, &registry.client_key_file)
        {
            endpoint.client_certificate = Some(ClientCertificate {
                certificate_file: certificate.clone(),
                key_file: key.clone(),
            });
        }
        endpoint.proxy = registry.proxy.as_ref().map(|proxy| match proxy {
            ProxySetting::Environment => Proxy::Environment,
            ProxySetting::Server(url) => Proxy::Server {
                url: url.clone(),
                login: registry
                    .proxy_username
                    .clone()
                    .zip(registry.proxy_password_file.clone()),
                bypass: registry.no_proxy.clone(),
            },
        });
        Ok(endpoint)
    }

    fn unusable(&self, reason: impl Into<String>) -> Error {
        Error::Settings {
            host: self.host.to_string(),
            reason: reason.into(),
        }
    }

    fn file(&self, path: &Path) -> Result<Vec<u8>, Error> {
        fs::read(path).map_err(|error| self.unusable(format!("`{}`: {error}", path.display())))
    }
}

/// What sends: to the registry itself, and to whom it sends on.
#[derive(Debug)]
pub(crate) struct Wires {
    pub(crate) http: reqwest::Client,
    /// Sends layers, which may take longer than any answer may.
    pub(crate) uploads: reqwest::Client,
    /// Shows no certificate of its own, and goes only where the registry may send on to.
    pub(crate) elsewhere: reqwest::Client,
    pub(crate) zone: Zone,
    files: Vec<(PathBuf, Option<SystemTime>)>,
}

impl Wires {
    /// Makes wires that send nothing themselves.
    pub(crate) fn supplied(maker: reqwest::Client) -> Self {
        Self {
            http: maker.clone(),
            uploads: maker.clone(),
            elsewhere: maker,
            zone: Zone::default(),
            files: Vec::new(),
        }
    }

    pub(crate) fn of(endpoint: &Endpoint) -> Result<Self, Error> {
        let mut named: Vec<PathBuf> = endpoint.ca_file.iter().cloned().collect();
        if let Some(shown) = &endpoint.client_certificate {
            named.extend([shown.certificate_file.clone(), shown.key_file.clone()]);
        }
        if let Some(Proxy::Server { login, .. }) = &endpoint.proxy {
            named.extend(login.iter().map(|(_, file)| file.clone()));
        }
        // The times come first: a file that changes while it is read counts as changed.
        let files = named
            .into_iter()
            .map(|file| (file.clone(), changed(&file)))
            .collect();
        let zone = Zone::default();
        Ok(Self {
            http: wire(endpoint, None, Some(LONGEST_SILENCE))?,
            uploads: wire(endpoint, None, None)?,
            elsewhere: wire(endpoint, Some(&zone), Some(LONGEST_SILENCE))?,
            zone,
            files,
        })
    }

    /// Says whether the files that they were made of are still the same.
    pub(crate) fn are_current(&self) -> bool {
        self.files.iter().all(|(file, then)| changed(file) == *then)
    }
}

fn changed(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|about| about.modified()).ok()
}

/// Makes what sends over the wire.
///
/// The time limit of reqwest counts from the beginning of a request, and so ends an upload that goes on for longer.
fn wire(
    endpoint: &Endpoint,
    away: Option<&Zone>,
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
    if let Some(guard) = away.and_then(|zone| guard(endpoint, zone)) {
        builder = builder.dns_resolver(Arc::new(guard));
    }
    builder = match &endpoint.proxy {
        None => builder.no_proxy(),
        Some(Proxy::Environment) => builder,
        Some(Proxy::Server { url, login, bypass }) => {
            builder
                .no_proxy()
                .proxy(server(endpoint, url, login.as_ref(), bypass)?)
        }
    };
    if let Some(file) = &endpoint.ca_file {
        let unusable = |error: reqwest::Error| {
            endpoint.unusable(format!(
                "`{}` holds no certificates: {error}",
                file.display()
            ))
        };
        let authorities =
            reqwest::Certificate::from_pem_bundle(&endpoint.file(file)?).map_err(unusable)?;
        if authorities.is_empty() {
            return Err(endpoint.unusable(format!("`{}` holds no certificates", file.display())));
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
        .filter(|_| away.is_none())
    {
        let mut pem = endpoint.file(&shown.certificate_file)?;
        pem.push(b'\n');
        pem.extend(endpoint.file(&shown.key_file)?);
        // The error of the parser is left out, since what it was given is secret.
        let identity = reqwest::Identity::from_pem(&pem).map_err(|_| {
            endpoint.unusable(format!(
                "`{}` and `{}` hold no certificate with its key in PEM",
                shown.certificate_file.display(),
                shown.key_file.display()
            ))
        })?;
        builder = builder.identity(identity);
    }
    builder
        .build()
        .map_err(|error| endpoint.unusable(error.to_string()))
}

/// Makes what resolves the names of whom the registry sends on to.
fn guard(endpoint: &Endpoint, zone: &Zone) -> Option<Guard> {
    let proxy = match &endpoint.proxy {
        None => None,
        // Names are resolved by the proxy, and which host is the proxy is not known here.
        Some(Proxy::Environment) => return None,
        Some(Proxy::Server { url, .. }) => url.host_str().map(str::to_owned),
    };
    let zone = zone.clone();
    Some(Guard { zone, proxy })
}

fn server(
    endpoint: &Endpoint,
    url: &Url,
    login: Option<&(String, PathBuf)>,
    bypass: &[String],
) -> Result<reqwest::Proxy, Error> {
    let mut proxy = reqwest::Proxy::all(url.clone())
        .map_err(|_| endpoint.unusable(format!("`{url}` is no address of a proxy")))?;
    if let Some((username, file)) = login {
        let password =
            secret_file(file).map_err(|error| endpoint.unusable(format!("{error:#}")))?;
        proxy = proxy.basic_auth(username, password.expose_secret());
    }
    Ok(proxy.no_proxy(reqwest::NoProxy::from_string(&bypass.join(","))))
}
