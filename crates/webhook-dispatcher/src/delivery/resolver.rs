//! Resolves the names of endpoints to addresses that the address guard permits (SSRF).

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use sluice_domain::AddressGuard;

/// A resolver that returns permitted addresses only.
#[derive(Debug)]
pub(crate) struct GuardedResolver(pub(crate) AddressGuard);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (host, guard) = (name.as_str().to_owned(), self.0);
        Box::pin(async move {
            let addresses: Vec<SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let permitted = guard.permitted(&host, addresses)?;
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}
