//! The clients of a session, by options, by `Registry` documents, or anonymous over TLS.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use sluice_domain::RegistryHost;
use sluice_domain::resources::Registry;
use sluice_registry::{
    Client, CredentialSource, Endpoint, Proxy, RateLimit, RequestCounter, RequestCounts, Transport,
};
use sluice_service::{SecretFile, Secrets};

use crate::error::ConfigurationError;

/// How registries are reached; passwords are in files.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// Account and certificates of the source.
    pub source: EndpointOptions,
    /// Account and certificates of the destination.
    pub destination: EndpointOptions,
    /// Registries that speak HTTP without TLS.
    pub plain_http: Vec<RegistryHost>,
    /// Hosts that issue tokens for a registry of another name.
    pub token_hosts: Vec<RegistryHost>,
    /// The registry of a running `sluice up`, and its token issuer.
    pub embedded: Option<(RegistryHost, RegistryHost)>,
    /// Bytes of layers per second to and from each registry.
    pub bandwidth: Option<NonZeroU64>,
    /// The maximum number of concurrent requests of copies.
    pub max_connections: Option<u32>,
}

/// Account and certificates of one end of a copy.
#[derive(Debug, Clone, Default)]
pub struct EndpointOptions {
    /// The account.
    pub username: Option<String>,
    /// The file with its password or token.
    pub password_file: Option<PathBuf>,
    /// A PEM file with the certificate authorities to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
}

/// The end of a copy at which a registry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Images are copied from it.
    Source,
    /// Images are copied to it.
    Destination,
}

/// The requests to a registry, and its quota.
#[derive(Debug, Clone)]
pub struct RegistryUsage {
    /// The end of the copy.
    pub side: Side,
    /// The registry.
    pub host: RegistryHost,
    /// The requests.
    pub requests: RequestCounts,
    /// The quota of the last response.
    pub quota: Option<RateLimit>,
}

/// One client for each registry and end; a client caches its tokens.
#[derive(Debug)]
pub struct Clients {
    options: RegistryOptions,
    registries: Vec<Registry>,
    secrets: Secrets,
    clients: Mutex<ClientMap>,
}

type ClientMap = BTreeMap<(Side, RegistryHost), (Client, Arc<RequestCounter>)>;

impl Clients {
    /// Creates the set without connecting to a registry.
    pub fn new(options: RegistryOptions, registries: Vec<Registry>, secrets: Secrets) -> Self {
        Self {
            options,
            registries,
            secrets,
            clients: Mutex::default(),
        }
    }

    /// Returns the client of a registry.
    ///
    /// # Errors
    /// [`ConfigurationError`] for a secret or certificate that cannot be used.
    pub fn client(&self, side: Side, host: &RegistryHost) -> anyhow::Result<Client> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((client, _)) = clients.get(&(side, host.clone())) {
            return Ok(client.clone());
        }
        let counter = Arc::new(RequestCounter::default());
        let endpoint = self
            .endpoint(side, host)
            .map_err(|error| ConfigurationError(error.context(format!("registry `{host}`"))))?;
        let transport = Transport::default().with_counter(counter.clone());
        let client = Client::with_transport(transport, endpoint)
            .map_err(|e| ConfigurationError(e.into()))?;
        clients.insert((side, host.clone()), (client.clone(), counter));
        Ok(client)
    }

    /// Returns the requests to each registry.
    pub fn usage(&self) -> Vec<RegistryUsage> {
        let clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients
            .iter()
            .map(|((side, host), (client, counter))| RegistryUsage {
                side: *side,
                host: host.clone(),
                requests: counter.counts(),
                quota: client.last_rate_limit(),
            })
            .collect()
    }

    fn endpoint(&self, side: Side, host: &RegistryHost) -> anyhow::Result<Endpoint> {
        let described = self.registries.iter().find(|one| one.host == *host);
        let plain = self.options.plain_http.contains(host);
        let mut endpoint = match described {
            Some(registry) => Endpoint::described(registry, &self.secrets)?,
            None => Endpoint::of(host, plain)?,
        };
        if plain && endpoint.base.scheme() != "http" {
            endpoint.base = Endpoint::of(host, true)?.base;
        }
        let embedded = self.options.embedded.as_ref();
        let embedded = embedded.filter(|(registry, _)| registry == host);
        let issuer = embedded.map(|(_, issuer)| issuer);
        let realms = self.options.token_hosts.iter().chain(issuer);
        endpoint.realms.extend(realms.map(ToString::to_string));
        // A person's environment is used, unlike that of a service.
        if endpoint.proxy.is_none() {
            endpoint.proxy = Some(Proxy::Environment);
        }
        if endpoint.source.is_none() {
            let variable = |name: &str| std::env::var_os(name);
            endpoint.source = Some(CredentialSource::personal(variable));
        }
        let EndpointOptions {
            username,
            password_file,
            ca_file,
        } = match side {
            Side::Source => &self.options.source,
            Side::Destination => &self.options.destination,
        };
        if let (Some(username), Some(file)) = (username, password_file) {
            let password = SecretFile::at(file);
            // A missing file is reported before a request is sent.
            password.text()?;
            endpoint.source = Some(CredentialSource::password(username, password));
        }
        if let Some(file) = ca_file {
            std::fs::metadata(file)
                .with_context(|| format!("failed to read `{}`", file.display()))?;
            endpoint.ca = Some(SecretFile::at(file));
        }
        endpoint.bandwidth = self.options.bandwidth;
        Ok(endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_from_named_hosts_and_for_the_embedded_registry_from_its_issuer() {
        let host = |text: &str| text.parse::<RegistryHost>().unwrap();
        let (embedded, issuer) = (host("127.0.0.1:5000"), host("127.0.0.1:5001"));
        let options = RegistryOptions {
            token_hosts: vec![host("tokens.example")],
            embedded: Some((embedded.clone(), issuer.clone())),
            ..RegistryOptions::default()
        };
        let clients = Clients::new(options, Vec::new(), Secrets::default());
        let realms = |host| clients.endpoint(Side::Source, host).unwrap().realms;
        assert_eq!(realms(&embedded), ["tokens.example", issuer.as_str()]);
        assert_eq!(realms(&host("127.0.0.1:5001")), ["tokens.example"]);
    }
}
