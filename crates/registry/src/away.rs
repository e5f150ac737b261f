//! Where a registry may send on to: never to a metadata service, and into a private network only if it is there itself.
//!
//! The check is made on the addresses that are connected to, so a name that changes its address passes no check twice.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use sluice_domain::address::{is_metadata, is_public};
use thiserror::Error;
use url::{Host, Url};

/// A place that the registry may not send on to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("it is redirected to `{host}` at {address}, which is {kind}")]
pub(crate) struct Forbidden {
    host: String,
    address: IpAddr,
    kind: &'static str,
}

/// What is known of where the registry is; shared by the client and the resolver of whom it sends on to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Zone(Arc<AtomicBool>);

impl Zone {
    /// Takes note of where the registry answered from.
    pub(crate) fn note(&self, address: IpAddr) {
        self.0.store(!is_public(address), Ordering::Relaxed);
    }

    fn check(&self, host: &str, address: IpAddr) -> Result<(), Forbidden> {
        let kind = if is_metadata(address) {
            "an address of the machine's own network or of its metadata"
        } else if !is_public(address) && !self.0.load(Ordering::Relaxed) {
            "no public address, although the registry has one"
        } else {
            return Ok(());
        };
        Err(Forbidden {
            host: host.to_owned(),
            address,
            kind,
        })
    }

    /// Checks an address that is written into the URL itself, which no resolver sees.
    pub(crate) fn check_literal(&self, url: &Url) -> Result<(), Forbidden> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        self.check(url.host_str().unwrap_or_default(), address)
    }

    fn allowed(&self, host: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Forbidden> {
        let mut refused = None;
        let mut allowed = Vec::new();
        for address in found {
            match self.check(host, address.ip()) {
                Ok(()) => allowed.push(address),
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if allowed.is_empty() => Err(error),
            _ => Ok(allowed),
        }
    }
}

/// Resolves names to the addresses that the registry may send on to.
#[derive(Debug)]
pub(crate) struct Guard {
    pub(crate) zone: Zone,
    /// The host of the proxy, which a person chose and not the registry.
    pub(crate) proxy: Option<String>,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (host, zone) = (name.as_str().to_owned(), self.zone.clone());
        let is_proxy = self.proxy.as_ref().is_some_and(|proxy| *proxy == host);
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let allowed = if is_proxy {
                found
            } else {
                zone.allowed(&host, found)?
            };
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::endpoint::{Endpoint, Wires};
    use crate::error::Error;

    fn zone(registry: &str) -> Zone {
        let zone = Zone::default();
        zone.note(registry.parse().unwrap());
        zone
    }

    fn is_allowed(zone: &Zone, host: &str) -> bool {
        let url = Url::parse(&format!("https://{host}/x")).unwrap();
        zone.check_literal(&url).is_ok()
    }

    #[test]
    fn a_public_registry_sends_on_to_public_addresses_only() {
        // Before it has answered it counts as public.
        for zone in [Zone::default(), zone("8.8.8.8")] {
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

    #[test]
    fn of_a_name_only_the_allowed_addresses_are_connected_to() {
        let address = |text: &str| SocketAddr::new(text.parse().unwrap(), 0);
        let (zone, public) = (zone("8.8.8.8"), address("1.1.1.1"));
        let mixed = vec![address("10.0.0.1"), public, address("::1")];
        assert_eq!(zone.allowed("x", mixed), Ok(vec![public]));
        let refused = zone.allowed("x", vec![address("169.254.169.254")]);
        assert!(refused.unwrap_err().to_string().contains("metadata"));
        assert_eq!(zone.allowed("x", Vec::new()), Ok(Vec::new()));
    }

    #[tokio::test]
    async fn a_name_at_an_address_within_is_not_connected_to() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoint = Endpoint::of(&"registry.example".parse().unwrap(), false).unwrap();
        let wires = Wires::of(&endpoint).unwrap();
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
}
