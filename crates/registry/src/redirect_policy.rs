//! Where a registry may send on to: never to a metadata service, and into a private network only if it is there itself.
//!
//! What an address is, and what follows, says the address guard of `sluice_domain::address`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use sluice_domain::address::{AddressClass, AddressGuard};

/// Whether the registry has a private address; shared by its client and the resolver of redirects.
#[derive(Debug, Clone, Default)]
pub(crate) struct RedirectScope(Arc<AtomicBool>);

impl RedirectScope {
    /// Takes note of where the registry answered from.
    pub(crate) fn note(&self, address: IpAddr) {
        let is_private = AddressClass::of(address) == AddressClass::Private;
        self.0.store(is_private, Ordering::Relaxed);
    }

    /// Returns what is allowed to whom the registry sends on to.
    pub(crate) fn guard(&self) -> AddressGuard {
        if self.0.load(Ordering::Relaxed) {
            AddressGuard::PrivateAllowed
        } else {
            AddressGuard::PublicOnly
        }
    }
}

/// Whose names are resolved.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// The registry and its token issuer, which a person named.
    Registry,
    /// Whomever the registry sends on to.
    Elsewhere(RedirectScope),
}

/// Resolves names to the addresses that may be connected to.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) peer: Peer,
    /// The host of the proxy, which a person chose and not the registry.
    pub(crate) proxy: Option<String>,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (host, peer) = (name.as_str().to_owned(), self.peer.clone());
        let is_proxy = self.proxy.as_ref().is_some_and(|proxy| *proxy == host);
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            // The registry may have answered meanwhile, from where decides.
            let guard = match peer {
                Peer::Registry => AddressGuard::PrivateAllowed,
                Peer::Elsewhere(zone) => zone.guard(),
            };
            let permitted = if is_proxy {
                found
            } else {
                guard.permitted(&host, found)?
            };
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use url::Url;

    use super::*;
    use crate::endpoint::{Endpoint, HttpClients};
    use crate::error::Error;

    fn zone(registry: &str) -> RedirectScope {
        let zone = RedirectScope::default();
        zone.note(registry.parse().unwrap());
        zone
    }

    fn is_allowed(zone: &RedirectScope, host: &str) -> bool {
        let url = Url::parse(&format!("https://{host}/x")).unwrap();
        zone.guard().check_url(&url).is_ok()
    }

    #[test]
    fn a_public_registry_sends_on_to_public_addresses_only() {
        // Before it has answered it counts as public.
        for zone in [RedirectScope::default(), zone("8.8.8.8")] {
            for host in [
                "10.0.0.1",
                "127.0.0.1",
                "[::1]",
                "0x7f.1",
                "2130706433",
                "169.254.169.254",
            ] {
                assert!(!is_allowed(&zone, host), "{host}");
            }
            assert!(is_allowed(&zone, "1.1.1.1") && is_allowed(&zone, "cdn.example"));
        }
    }

    #[test]
    fn a_registry_within_sends_on_within_but_never_to_metadata() {
        let zone = zone("10.1.2.3");
        assert!(is_allowed(&zone, "10.0.0.1") && is_allowed(&zone, "1.1.1.1"));
        for host in [
            "169.254.169.254",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "[::ffff:169.254.169.254]",
        ] {
            assert!(!is_allowed(&zone, host), "{host}");
        }
    }

    #[tokio::test]
    async fn a_name_at_an_address_within_is_not_connected_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoint = Endpoint::of(&"registry.example".parse().unwrap(), false).unwrap();
        let wires = HttpClients::of(&endpoint).unwrap();
        let ask = || {
            let request = wires.elsewhere.get(format!("http://localhost:{port}/"));
            async move {
                let sent = request.timeout(Duration::from_secs(5)).send();
                let error = sent.await.unwrap_err();
                Error::transport("fetch", "x")(error)
            }
        };
        let error = ask().await;
        assert!(matches!(error, Error::Untrusted { .. }), "{error:?}");
        assert!(error.to_string().contains("no public address"), "{error}");
        let none = tokio::time::timeout(Duration::from_millis(50), listener.accept());
        assert!(none.await.is_err(), "it was connected to");
        // A registry within may send on to it, so it is the address that stopped it.
        wires.zone.note("127.0.0.1".parse().unwrap());
        let (answer, accepted) = tokio::join!(ask(), async { drop(listener.accept().await) });
        let () = accepted;
        assert!(matches!(answer, Error::Transport { .. }), "{answer:?}");
    }

    #[test]
    fn a_registry_at_a_metadata_address_gets_no_client() {
        for host in [
            "169.254.169.254",
            "[fe80::1]",
            "[::ffff:a9fe:a9fe]",
            "0.0.0.0",
        ] {
            let base = Url::parse(&format!("http://{host}")).unwrap();
            let endpoint = Endpoint::at("registry.example".parse().unwrap(), base);
            let refused = HttpClients::of(&endpoint).unwrap_err();
            assert!(matches!(refused, Error::Settings { .. }), "{refused:?}");
        }
    }
}
