//! The clients of remote registries of one service: one for each account, so that connections and tokens serve again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sluice_domain::RegistryHost;
use sluice_domain::resources::Registry;
use sluice_registry::{Client, Endpoint, Transport};
use sluice_service::Secrets;

use crate::budget::Budgets;
use crate::catalog::Snapshot;
use crate::connect::{account_of, known};

/// How many clients are kept; beyond that all are made anew.
const MOST: usize = 256;

/// Makes clients as the catalogue describes their registries, and keeps each until its resource or a file of it changes.
///
/// A password is read again by its client, so one that is rotated needs no other client.
#[derive(Debug, Clone, Default)]
pub struct RemoteClients {
    transport: Transport,
    secrets: Secrets,
    made: Arc<Mutex<HashMap<(RegistryHost, Pulls), Made>>>,
}

/// What a client may spend of its account's pulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pulls {
    /// As many as the registry allows, for whoever pushes.
    Uncounted,
    /// What the reserve leaves.
    Background,
    /// The reserve too.
    Urgent,
}

#[derive(Debug)]
struct Made {
    resource: Option<Registry>,
    client: Client,
}

impl RemoteClients {
    /// Reaches registries in another way than over the wire.
    #[must_use]
    pub fn reaching(self, transport: Transport) -> Self {
        Self {
            transport,
            made: Arc::default(),
            ..self
        }
    }

    /// Takes the secrets that `Registry` resources name from this folder.
    #[must_use]
    pub fn with_secrets(self, secrets: Secrets) -> Self {
        Self {
            secrets,
            made: Arc::default(),
            ..self
        }
    }

    /// Returns the client of a registry as the catalogue describes it, or an anonymous one over TLS.
    ///
    /// # Errors
    /// A secret or certificate that cannot be read.
    pub fn client(
        &self,
        budgets: &Budgets,
        catalog: &Snapshot,
        host: &RegistryHost,
        pulls: Pulls,
    ) -> anyhow::Result<Client> {
        let (resource, key) = (known(catalog, host), (host.clone(), pulls));
        let mut all = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |made: &&Made| made.resource.as_ref() == resource && made.client.is_current();
        if let Some(made) = all.get(&key).filter(is_same) {
            return Ok(made.client.clone());
        }
        let endpoint = match resource {
            Some(resource) => Endpoint::described(resource, &self.secrets)?,
            None => Endpoint::of(host, false)?,
        };
        let transport = self.transport.clone();
        let client = if pulls == Pulls::Uncounted {
            Client::over(transport, endpoint)?
        } else {
            let (account, reserve) = account_of(resource);
            let budget = budgets.account(host, account, reserve, pulls == Pulls::Urgent);
            Client::within(budget, transport, endpoint)?
        };
        if all.len() >= MOST {
            all.clear();
        }
        let resource = resource.cloned();
        let made = Made {
            resource,
            client: client.clone(),
        };
        all.insert(key, made);
        Ok(client)
    }
}
