//! Which addresses may be spoken to: public ones, unless a webhook allows others.
//!
//! The check is made on the addresses that are connected to, so a name that changes its address passes no check twice.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;
use url::{Host, Url};

/// An address that only a webhook with `allow_private_addresses` may have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{host}` is at {address}, which is no public address; `allow_private_addresses: true` on the webhook allows it"
)]
pub(crate) struct NotPublic {
    /// The host as the webhook names it.
    pub(crate) host: String,
    /// Where it is.
    pub(crate) address: IpAddr,
}

/// Resolves names to their public addresses only.
#[derive(Debug)]
pub(crate) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            let public = public_of(host, found)?;
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

fn public_of(host: String, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, NotPublic> {
    let (public, others): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|address| is_public(address.ip()));
    match others.first() {
        Some(address) if public.is_empty() => Err(NotPublic {
            host,
            address: address.ip(),
        }),
        _ => Ok(public),
    }
}

/// Checks an address that is written into the URL itself, which no resolver sees.
pub(crate) fn check_literal(url: &Url) -> Result<(), NotPublic> {
    let address = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => IpAddr::V6(address),
        Some(Host::Domain(_)) | None => return Ok(()),
    };
    if is_public(address) {
        return Ok(());
    }
    Err(NotPublic {
        host: url.host_str().unwrap_or_default().to_owned(),
        address,
    })
}

/// Says whether an address belongs to the public internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Everything in IANA's registry of special-purpose addresses is refused, and multicast.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let refused = match address.octets() {
        // This network, private networks, loopback, multicast, and what is reserved.
        [0 | 10 | 127 | 224.., ..] => true,
        // Addresses shared by a provider's customers; some clouds have their metadata there.
        [100, second, ..] => second & 0b1100_0000 == 64,
        // Link-local, and with it most clouds' metadata.
        [169, 254, ..] | [192, 168, ..] => true,
        [172, second, ..] => second & 0b1111_0000 == 16,
        // Protocol assignments, documentation, the old relay of 6to4.
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 51, 100, _] | [203, 0, 113, _] => true,
        // Benchmarks.
        [198, 18 | 19, ..] => true,
        _ => false,
    };
    !refused
}

/// Only global unicast is public; what carries an address of version 4 is as public as that.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    match segments {
        // Mapped, and translated by NAT64.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            is_public_v4(embedded(high, low))
        }
        // 6to4.
        [0x2002, high, low, ..] => is_public_v4(embedded(high, low)),
        // Protocol assignments with Teredo and ORCHID, and documentation.
        [0x2001, second, ..] => second > 0x01ff && second != 0x0db8,
        [0x3fff, second, ..] => second > 0x0fff,
        [first, ..] => first & 0b1110_0000_0000_0000 == 0x2000,
    }
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_their_class() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:1ff::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.167.0.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn every_way_to_write_an_address_into_a_url_is_checked() {
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f.0.0.1/",
            "http://2130706433/",
            "http://0177.0.0.1/",
            "http://127.0.0.1./",
            "http://[::1]:80/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "http://0/",
            "http://169.254.169.254/latest/meta-data/",
        ] {
            let refused = check_literal(&Url::parse(url).unwrap()).unwrap_err();
            assert!(refused.to_string().contains("allow_private_addresses"));
        }
        for url in ["http://8.8.8.8/", "https://hooks.example/"] {
            assert_eq!(check_literal(&Url::parse(url).unwrap()), Ok(()));
        }
    }

    #[test]
    fn of_several_addresses_only_the_public_ones_are_used() {
        let address = |text: &str| SocketAddr::new(text.parse().unwrap(), 0);
        let mixed = vec![address("10.0.0.1"), address("8.8.8.8"), address("::1")];
        assert_eq!(
            public_of("x".to_owned(), mixed).unwrap(),
            [address("8.8.8.8")]
        );
        let refused = public_of("x".to_owned(), vec![address("10.0.0.1")]).unwrap_err();
        assert_eq!(refused.address, address("10.0.0.1").ip());
        assert_eq!(public_of("x".to_owned(), Vec::new()), Ok(Vec::new()));
    }
}
