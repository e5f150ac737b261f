//! To which addresses a redirect may lead: never to a metadata service, and into a private network only if the registry is in
//! one itself. The other rules (no credentials for other hosts, no way out of TLS, five hops) are in `client.rs`.
//!
//! The classes of addresses are those of [`sluice_domain::AddressGuard`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use sluice_domain::{AddressClass, AddressGuard};

/// Whether the registry has a private address; shared by its client and the resolver for redirects.
#[derive(Debug, Clone, Default)]
pub(crate) struct RedirectScope(Arc<AtomicBool>);

impl RedirectScope {
    /// Records the address that the registry answered from.
    pub(crate) fn note(&self, address: IpAddr) {
        let is_private = AddressClass::of(address) == AddressClass::Private;
        self.0.store(is_private, Ordering::Relaxed);
    }

    /// Returns the guard for the addresses of redirects.
    pub(crate) fn guard(&self) -> AddressGuard {
        if self.0.load(Ordering::Relaxed) {
            AddressGuard::PrivateAllowed
        } else {
            AddressGuard::PublicOnly
        }
    }
}

/// The peer whose name is resolved.
#[derive(Debug, Clone)]
pub(crate) enum Peer {
    /// The registry and its token issuer, which a person configured.
    Registry,
    /// The target of a redirect.
    Redirect(RedirectScope),
}

/// Resolves names to the addresses that the policy allows.
#[derive(Debug)]
pub(crate) struct GuardedResolver {
    pub(crate) peer: Peer,
    /// The host of the proxy, which a person configured.
    pub(crate) proxy: Option<String>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (host, peer) = (name.as_str().to_owned(), self.peer.clone());
        let is_proxy = self.proxy.as_ref().is_some_and(|proxy| *proxy == host);
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            // The scope is read after the lookup, since the registry may have answered meanwhile.
            let guard = match peer {
                Peer::Registry => AddressGuard::PrivateAllowed,
                Peer::Redirect(scope) => scope.guard(),
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
    use crate::endpoint::Endpoint;
    use crate::error::Error;
    use crate::http::connection::http_clients::HttpClients;

    fn scope(registry: &str) -> RedirectScope {
        let scope = RedirectScope::default();
        scope.note(registry.parse().unwrap());
        scope
    }

    fn is_allowed(scope: &RedirectScope, host: &str) -> bool {
        let url = Url::parse(&format!("https://{host}/x")).unwrap();
        scope.guard().check_url(&url).is_ok()
    }

    #[test]
    fn a_public_registry_sends_on_to_public_addresses_only() {
        // Before it has answered it counts as public.
        for scope in [RedirectScope::default(), scope("8.8.8.8")] {
            for host in [
                "10.0.0.1",
                "127.0.0.1",
                "[::1]",
                "0x7f.1",
                "2130706433",
                "169.254.169.254",
            ] {
                assert!(!is_allowed(&scope, host), "{host}");
            }
            assert!(is_allowed(&scope, "1.1.1.1") && is_allowed(&scope, "cdn.example"));
        }
    }

    #[test]
    fn a_registry_within_sends_on_within_but_never_to_metadata() {
        let scope = scope("10.1.2.3");
        assert!(is_allowed(&scope, "10.0.0.1") && is_allowed(&scope, "1.1.1.1"));
        for host in [
            "169.254.169.254",
            "[fe80::1]",
            "[fd00:ec2::254]",
            "[::ffff:169.254.169.254]",
        ] {
            assert!(!is_allowed(&scope, host), "{host}");
        }
    }

    #[tokio::test]
    async fn a_name_at_an_address_within_is_not_connected_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoint = Endpoint::of(&"registry.example".parse().unwrap(), false).unwrap();
        let clients = HttpClients::new(&endpoint).unwrap();
        let ask = || {
            let request = clients.redirects.get(format!("http://localhost:{port}/"));
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
        clients.redirect_scope.note("127.0.0.1".parse().unwrap());
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
            let refused = HttpClients::new(&endpoint).unwrap_err();
            assert!(matches!(refused, Error::Settings { .. }), "{refused:?}");
        }
    }
}
