//! What every service connects to at its start, and clients of registries; secrets are read here, at use.

use anyhow::Context as _;
use sluice_bus::Bus;
use sluice_domain::RegistryHost;
use sluice_domain::resources::Registry;
use sluice_registry::{Client, Credential, Endpoint, Transport};
use sluice_service::{BusSettings, Host, RegistrySettings, secret_file};

use crate::State;
use crate::budget::Budgets;
use crate::catalog::{Catalog, Snapshot};
use crate::error::Error;

/// The services that delete tags, and so may write tombstones.
const DELETING: [&str; 3] = ["mirror-worker", "promoter", "pruner"];

/// Connects a service to the bus, and keeps its catalogue up to date on the host.
///
/// # Errors
/// A bus that cannot be reached or is not provisioned.
pub async fn attach(
    settings: &BusSettings,
    service: &'static str,
    host: &Host,
) -> anyhow::Result<(Bus, State, Catalog)> {
    let bus = Bus::attach(settings, service, host).await?;
    let state = State::open(&bus).await?;
    let (catalog, feed) = Catalog::open(&state).await?;
    let stopping = host.stopping();
    host.spawn("catalogue", async move { Ok(feed.run(stopping).await?) });
    if DELETING.contains(&service) {
        let (bus, stopping) = (bus.clone(), host.stopping());
        host.spawn(
            "probe",
            async move { Ok(bus.keep_probing(stopping).await?) },
        );
    }
    Ok((bus, state, catalog))
}

/// Makes the client of the internal registry for the account of a service.
///
/// # Errors
/// An address that is none, or a secret that cannot be read.
pub fn internal_registry(settings: &RegistrySettings) -> anyhow::Result<Client> {
    let host = settings
        .url
        .host_str()
        .context("the address of the registry has no host")?;
    let host = settings
        .url
        .port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let credential = match &settings.password_file {
        Some(file) => Some(Credential {
            username: settings.account.clone(),
            password: secret_file(file)?,
        }),
        None => None,
    };
    let mut endpoint = Endpoint::at(host.parse()?, settings.url.clone());
    endpoint.credential = credential;
    endpoint.realms = settings.token_host.iter().cloned().collect();
    endpoint.ca_file.clone_from(&settings.ca_file);
    Ok(Client::new(endpoint)?)
}

/// Makes the client of a remote registry as the catalogue describes it, or an anonymous one over TLS.
///
/// # Errors
/// A secret or certificate that cannot be read.
pub fn remote_registry(
    catalog: &Snapshot,
    host: &RegistryHost,
    transport: &Transport,
) -> anyhow::Result<Client> {
    let (endpoint, _) = described(catalog, host)?;
    Ok(Client::over(transport.clone(), endpoint)?)
}

/// Makes one that spends no more pulls than the account has; whoever is in a hurry may spend its reserve.
///
/// # Errors
/// As [`remote_registry`].
pub fn budgeted_registry(
    budgets: &Budgets,
    catalog: &Snapshot,
    host: &RegistryHost,
    transport: &Transport,
    is_urgent: bool,
) -> anyhow::Result<Client> {
    let (endpoint, known) = described(catalog, host)?;
    let (account, reserve) = account_of(known);
    let budget = budgets.account(host, account, reserve, is_urgent);
    Ok(Client::within(budget, transport.clone(), endpoint)?)
}

/// Says whether what nobody is in a hurry for waits for pulls of a registry.
///
/// # Errors
/// A failing bus.
pub async fn waits_for_pulls(
    budgets: &Budgets,
    catalog: &Snapshot,
    host: &RegistryHost,
) -> Result<bool, Error> {
    let (account, reserve) = account_of(known(catalog, host));
    budgets.is_spent(host, account, reserve).await
}

fn account_of(known: Option<&Registry>) -> (&str, u32) {
    let account = known.and_then(|known| known.username.as_deref());
    let reserve = known.map_or(0, |known| known.reserve);
    (account.unwrap_or_default(), reserve)
}

fn known<'a>(catalog: &'a Snapshot, host: &RegistryHost) -> Option<&'a Registry> {
    let mut known = catalog.registries.values();
    known.find(|registry| registry.host == *host)
}

fn described<'a>(
    catalog: &'a Snapshot,
    host: &RegistryHost,
) -> anyhow::Result<(Endpoint, Option<&'a Registry>)> {
    let known = known(catalog, host);
    let endpoint = match known {
        Some(registry) => Endpoint::described(registry)?,
        None => Endpoint::of(host, false)?,
    };
    Ok((endpoint, known))
}
