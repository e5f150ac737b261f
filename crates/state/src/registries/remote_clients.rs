//! The clients of remote registries of one service: one for each account, so that connections and tokens are reused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sluice_domain::RegistryHost;
use sluice_domain::resources::Registry;
use sluice_registry::{Client, Endpoint, Transport};
use sluice_service::Secrets;

use crate::error::Error;
use crate::registries::budget::Budgets;
use crate::resources::snapshot::Snapshot;

/// The most clients that are cached; at the limit the cache is cleared.
const MAX_CLIENTS: usize = 256;

/// Creates clients as the `Registry` resources say, and caches each until its resource or one of its files changes.
///
/// A client reads its password again after a refusal, so a rotated one needs no new client.
#[derive(Debug, Clone, Default)]
pub struct RemoteClients {
    transport: Transport,
    secrets: Secrets,
    clients: Arc<Mutex<HashMap<(RegistryHost, Pulls), CachedClient>>>,
}

/// How many pulls of its account a client may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pulls {
    /// All, without a pull budget; for pushes.
    Uncounted,
    /// All but the reserve.
    Background,
    /// The reserve too, for work that a person waits for.
    Urgent,
}

#[derive(Debug)]
struct CachedClient {
    resource: Option<Registry>,
    client: Client,
}

impl RemoteClients {
    /// Uses another transport than HTTP connections.
    #[must_use]
    pub fn with_transport(self, transport: Transport) -> Self {
        Self {
            transport,
            clients: Arc::default(),
            ..self
        }
    }

    /// Sets the folder of the secrets that `Registry` resources name.
    #[must_use]
    pub fn with_secrets(self, secrets: Secrets) -> Self {
        Self {
            secrets,
            clients: Arc::default(),
            ..self
        }
    }

    /// Returns the client of a registry as its resource says, or an anonymous one over TLS.
    pub fn client(
        &self,
        budgets: &Budgets,
        catalog: &Snapshot,
        host: &RegistryHost,
        pulls: Pulls,
    ) -> anyhow::Result<Client> {
        let (resource, key) = (catalog.registry(host), (host.clone(), pulls));
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |cached: &&CachedClient| {
            cached.resource.as_ref() == resource && cached.client.is_current()
        };
        if let Some(cached) = clients.get(&key).filter(is_same) {
            return Ok(cached.client.clone());
        }
        let endpoint = match resource {
            Some(resource) => Endpoint::described(resource, &self.secrets)?,
            None => Endpoint::of(host, false)?,
        };
        let transport = self.transport.clone();
        let client = if pulls == Pulls::Uncounted {
            Client::with_transport(transport, endpoint)?
        } else {
            let (account, reserve) = account_of(resource);
            let budget = budgets.account(host, account, reserve, pulls == Pulls::Urgent);
            Client::with_budget(budget, transport, endpoint)?
        };
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        let cached = CachedClient {
            resource: resource.cloned(),
            client: client.clone(),
        };
        clients.insert(key, cached);
        Ok(client)
    }
}

/// Says whether background work waits for pulls of a registry.
pub async fn is_pull_budget_spent(
    budgets: &Budgets,
    catalog: &Snapshot,
    host: &RegistryHost,
) -> Result<bool, Error> {
    let (account, reserve) = account_of(catalog.registry(host));
    budgets.is_spent(host, account, reserve).await
}

/// Returns the account that pulls from a registry, empty for none, and the pulls that background work leaves to people.
fn account_of(registry: Option<&Registry>) -> (&str, u32) {
    registry.map_or(("", 0), |registry| {
        (
            registry.username.as_deref().unwrap_or_default(),
            registry.reserve,
        )
    })
}
