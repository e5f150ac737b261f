//! The endpoint of a registry: address, credential, certificates and proxy.

pub(crate) mod account;
pub(crate) mod credential_source;
pub(crate) mod docker_config;

use std::num::NonZeroU64;

use secrecy::{SecretSlice, SecretString};
use sluice_domain::resources::{ProxySetting, Registry};
use sluice_domain::{Origin, RegistryHost};
use sluice_service::{SecretFile, Secrets};
use url::Url;

use crate::error::Error;

use self::account::Credential;
use self::credential_source::CredentialSource;

/// Registries whose token issuer is known to be on another host.
const KNOWN_REALMS: [(&str, &str); 3] = [
    (RegistryHost::DOCKER_HUB, "auth.docker.io"),
    ("docker.elastic.co", "docker-auth.elastic.co"),
    ("registry.gitlab.com", "gitlab.com"),
];

/// A client certificate for the registry; it is not sent to the hosts of redirects.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// The certificate and its intermediate authorities, in PEM.
    pub certificate: SecretFile,
    /// The private key, in PEM.
    pub key: SecretFile,
}

/// A proxy between here and a registry, its token issuer and its content network.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "there is one for each registry")]
pub enum Proxy {
    /// What `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    Environment,
    /// A proxy server.
    Server {
        /// The address.
        url: Url,
        /// The user name and the password at the proxy.
        login: Option<(String, SecretFile)>,
        /// Hosts, domains and networks that are reached without it.
        bypass: Vec<String>,
    },
}

/// Where a registry is, and how to connect to it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The name of the registry in image references.
    pub host: RegistryHost,
    /// The base URL.
    pub base: Url,
    /// The credential, if access is not anonymous.
    pub credential: Option<Credential>,
    /// The source from which the credential is read at use, so that it can be rotated; it goes before `credential`.
    pub source: Option<CredentialSource>,
    /// Further hosts, with their ports, that may issue tokens for it.
    pub realms: Vec<String>,
    /// The URL of the token issuer from here, in place of the one that the registry names to its clients.
    pub token_url: Option<Url>,
    /// The authorities to trust instead of the public ones, in PEM.
    pub ca: Option<SecretFile>,
    /// Trusts the public authorities besides those of `ca`.
    pub public_authorities: bool,
    /// The client certificate.
    pub client_certificate: Option<ClientCertificate>,
    /// The proxy; the environment is not read unless this says so.
    pub proxy: Option<Proxy>,
    /// The most bytes of layers per second to and from it, for all clients of the process together.
    pub bandwidth: Option<NonZeroU64>,
}

impl Endpoint {
    /// Returns the endpoint of a registry by its name; that of Docker Hub has another host.
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

    /// Returns the endpoint of a registry at a base URL whose host may differ from its name.
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
            token_url: None,
            ca: None,
            public_authorities: false,
            client_certificate: None,
            proxy: None,
            bandwidth: None,
        }
    }

    /// Returns the endpoint that a `Registry` resource describes. The password must be readable, and its hosts file must
    /// list the registry and every token issuer that the resource names.
    pub fn described(registry: &Registry, secrets: &Secrets) -> Result<Self, Error> {
        let mut endpoint = Self::of(&registry.host, registry.plain_http)?;
        let origins = registry
            .origins()
            .map_err(|error| endpoint.unusable(error.to_string()))?;
        if let (Some(username), Some(named)) = (&registry.username, &registry.password) {
            let password = secrets.sent_to(&named.secret, origins.clone());
            endpoint.credential = Some(Credential {
                username: username.clone(),
                password: endpoint.text(&password)?,
            });
            endpoint.source = Some(CredentialSource::password(username, password));
        }
        if let Some(named) = &registry.docker_config {
            let config = secrets.sent_to(&named.secret, origins.clone());
            endpoint.source = Some(CredentialSource::docker_config_secret(config));
        }
        let realms = registry.realms.iter().map(ToString::to_string);
        endpoint.realms.extend(realms);
        endpoint.ca = registry
            .ca
            .as_ref()
            .map(|named| secrets.public_file(&named.secret));
        endpoint.public_authorities = registry.public_authorities;
        if let (Some(certificate), Some(key)) = (&registry.client_certificate, &registry.client_key)
        {
            endpoint.client_certificate = Some(ClientCertificate {
                certificate: secrets.sent_to(&certificate.secret, origins.clone()),
                key: secrets.sent_to(&key.secret, origins),
            });
        }
        endpoint.proxy = match &registry.proxy {
            None => None,
            Some(ProxySetting::Environment) => Some(Proxy::Environment),
            Some(ProxySetting::Server(url)) => Some(endpoint.proxy_server(registry, url, secrets)?),
        };
        Ok(endpoint)
    }

    /// Returns the proxy of a resource; its password is sent to the proxy only.
    fn proxy_server(
        &self,
        registry: &Registry,
        url: &Url,
        secrets: &Secrets,
    ) -> Result<Proxy, Error> {
        let origin = Origin::of_url(url)
            .ok_or_else(|| self.unusable(format!("`{url}` is no URL of a proxy")))?;
        let username = registry.proxy_username.clone();
        let password = registry.proxy_password.as_ref();
        Ok(Proxy::Server {
            url: url.clone(),
            login: username.zip(password.map(|named| secrets.sent_to(&named.secret, vec![origin]))),
            bypass: registry.no_proxy.clone(),
        })
    }

    /// Makes the error of an endpoint that cannot be used.
    pub(crate) fn unusable(&self, reason: impl Into<String>) -> Error {
        Error::Settings {
            host: self.host.to_string(),
            reason: reason.into(),
        }
    }

    /// Reads a secret as text.
    pub(crate) fn text(&self, file: &SecretFile) -> Result<SecretString, Error> {
        file.text()
            .map_err(|error| self.unusable(format!("{error:#}")))
    }

    /// Reads a secret as bytes.
    pub(crate) fn bytes(&self, file: &SecretFile) -> Result<SecretSlice<u8>, Error> {
        file.bytes()
            .map_err(|error| self.unusable(format!("{error:#}")))
    }
}
