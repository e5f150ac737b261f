//! How one-shot commands reach registries: from flags, `Registry` documents, or anonymously over TLS.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use clap::Args;
use sluice_domain::RegistryHost;
use sluice_domain::resources::Registry;
use sluice_registry::{
    Client, CredentialSource, Endpoint, Proxy, RateLimit, Requests, Tally, Transport,
};
use sluice_service::{SecretFile, Secrets};

use crate::exit::Misconfigured;

/// How registries are reached; passwords are never arguments.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Registries")]
pub(crate) struct RemoteOptions {
    /// The account at the source.
    #[arg(long, value_name = "NAME", requires = "src_password_file")]
    src_username: Option<String>,
    /// The file that holds its password or token.
    #[arg(long, value_name = "FILE", requires = "src_username")]
    src_password_file: Option<PathBuf>,
    /// A PEM file with the authorities to trust at the source, instead of the public ones.
    #[arg(long, value_name = "FILE")]
    src_ca_file: Option<PathBuf>,
    /// The account at the destination.
    #[arg(long, value_name = "NAME", requires = "dest_password_file")]
    dest_username: Option<String>,
    /// The file that holds its password or token.
    #[arg(long, value_name = "FILE", requires = "dest_username")]
    dest_password_file: Option<PathBuf>,
    /// A PEM file with the authorities to trust at the destination, instead of the public ones.
    #[arg(long, value_name = "FILE")]
    dest_ca_file: Option<PathBuf>,
    /// A registry that speaks HTTP without TLS, with its port; may be repeated.
    #[arg(long, value_name = "HOST")]
    plain_http: Vec<RegistryHost>,
    /// A host, with its port, that issues tokens for a registry of another name; may be repeated.
    #[arg(long, value_name = "HOST")]
    realm: Vec<RegistryHost>,
    /// The registry of a running `sluice up`, and who issues its tokens.
    #[arg(skip)]
    pub(crate) own: Option<(RegistryHost, RegistryHost)>,
    /// The most bytes of layers per second to and from each registry, as in `20M`.
    #[arg(long, value_name = "BYTES", value_parser = bandwidth)]
    bandwidth: Option<NonZeroU64>,
    /// The most requests of copies that are under way at a time.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(2..=4096))]
    pub(crate) max_connections: Option<u32>,
}

/// Reads a number of bytes with an optional unit of thousands.
fn bandwidth(text: &str) -> Result<NonZeroU64, String> {
    const EXPECTED: &str = "expected bytes per second, as in `500k`, `20M` or `1G`";
    let (digits, scale) = match text.chars().last() {
        Some('k' | 'K') => (text.get(..text.len() - 1), 1_000),
        Some('m' | 'M') => (text.get(..text.len() - 1), 1_000_000),
        Some('g' | 'G') => (text.get(..text.len() - 1), 1_000_000_000),
        _ => (Some(text), 1),
    };
    let number = digits.and_then(|digits| digits.parse::<u64>().ok());
    let bytes = number.and_then(|number| number.checked_mul(scale));
    bytes
        .and_then(NonZeroU64::new)
        .ok_or_else(|| EXPECTED.to_owned())
}

/// Which end of a copy a registry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// Images come from it.
    Source,
    /// Images go to it.
    Destination,
}

/// What was asked of one registry, and what it said of its quota.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Which end it is.
    pub(crate) side: Side,
    /// The registry.
    pub(crate) host: RegistryHost,
    /// The requests.
    pub(crate) requests: Requests,
    /// The quota, as it was told last.
    pub(crate) quota: Option<RateLimit>,
}

/// Makes one client for each registry and end, and keeps it with its tokens.
#[derive(Debug)]
pub(crate) struct Clients {
    options: RemoteOptions,
    registries: Vec<Registry>,
    secrets: Secrets,
    made: Mutex<Made>,
}

type Made = BTreeMap<(Side, RegistryHost), (Client, Arc<Tally>)>;

impl Clients {
    /// Makes none yet.
    pub(crate) fn new(options: RemoteOptions, registries: Vec<Registry>, secrets: Secrets) -> Self {
        Self {
            options,
            registries,
            secrets,
            made: Mutex::default(),
        }
    }

    /// Returns the client of a registry.
    pub(crate) fn client(&self, side: Side, host: &RegistryHost) -> anyhow::Result<Client> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((client, _)) = made.get(&(side, host.clone())) {
            return Ok(client.clone());
        }
        let tally = Arc::new(Tally::default());
        let endpoint = self
            .endpoint(side, host)
            .map_err(|error| Misconfigured(error.context(format!("registry `{host}`"))))?;
        let transport = Transport::default().counted(tally.clone());
        let client = Client::over(transport, endpoint).map_err(|e| Misconfigured(e.into()))?;
        made.insert((side, host.clone()), (client.clone(), tally));
        Ok(client)
    }

    /// Returns what was asked of each registry.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.iter()
            .map(|((side, host), (client, tally))| Asked {
                side: *side,
                host: host.clone(),
                requests: tally.requests(),
                quota: client.last_rate_limit(),
            })
            .collect()
    }

    fn endpoint(&self, side: Side, host: &RegistryHost) -> anyhow::Result<Endpoint> {
        let described = self.registries.iter().find(|known| known.host == *host);
        let plain = self.options.plain_http.contains(host);
        let mut endpoint = match described {
            Some(registry) => Endpoint::described(registry, &self.secrets)?,
            None => Endpoint::of(host, plain)?,
        };
        if plain && endpoint.base.scheme() != "http" {
            endpoint.base = Endpoint::of(host, true)?.base;
        }
        let own = self.options.own.as_ref();
        let issuer = own.filter(|(own, _)| own == host).map(|(_, issuer)| issuer);
        let realms = self.options.realm.iter().chain(issuer);
        endpoint.realms.extend(realms.map(ToString::to_string));
        // Whoever runs this has an environment of their own, as a service has not.
        if endpoint.proxy.is_none() {
            endpoint.proxy = Some(Proxy::Environment);
        }
        if endpoint.source.is_none() {
            let variable = |name: &str| std::env::var_os(name);
            endpoint.source = Some(CredentialSource::personal(variable));
        }
        let (username, password, authorities) = match side {
            Side::Source => (
                &self.options.src_username,
                &self.options.src_password_file,
                &self.options.src_ca_file,
            ),
            Side::Destination => (
                &self.options.dest_username,
                &self.options.dest_password_file,
                &self.options.dest_ca_file,
            ),
        };
        if let (Some(username), Some(file)) = (username, password) {
            let password = SecretFile::at(file);
            // A file that cannot be read is told before anything is sent.
            password.text()?;
            endpoint.source = Some(CredentialSource::password(username, password));
        }
        if let Some(file) = authorities {
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
    fn tokens_come_from_realms_that_are_named_and_for_the_own_registry_from_its_issuer() {
        let host = |text: &str| text.parse::<RegistryHost>().unwrap();
        let (own, issuer) = (host("127.0.0.1:5000"), host("127.0.0.1:5001"));
        let options = RemoteOptions {
            realm: vec![host("tokens.example")],
            own: Some((own.clone(), issuer.clone())),
            ..RemoteOptions::default()
        };
        let clients = Clients::new(options, Vec::new(), Secrets::default());
        let realms = |host| clients.endpoint(Side::Source, host).unwrap().realms;
        assert_eq!(realms(&own), ["tokens.example", issuer.as_str()]);
        assert_eq!(realms(&host("127.0.0.1:5001")), ["tokens.example"]);
    }

    #[test]
    fn a_bandwidth_is_a_number_with_a_unit() {
        for (text, bytes) in [("1", 1), ("500k", 500_000), ("20M", 20_000_000)] {
            assert_eq!(bandwidth(text).unwrap().get(), bytes);
        }
        for bad in ["", "0", "M", "-1", "1T", "20MB", "99999999999999G", "é"] {
            assert!(bandwidth(bad).is_err(), "{bad}");
        }
    }
}
