//! The address guard: which addresses a peer or a resource may make Sluice connect to (SSRF).
//!
//! A client checks each address that a name resolves to at the moment of connecting, and an address that a URL contains
//! itself; so a name that changes its address later gains nothing. The guard resolves nothing itself.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;
use url::{Host, Url};

/// Metadata services outside the link-local network: Alibaba Cloud, Azure (`WireServer`), Oracle Cloud.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];
/// The first 32 bits of unique local networks in which clouds serve their machines: AWS (`fd00:ec2::/32`, where
/// metadata, credentials of pods, time and names are), Google Cloud, Oracle Cloud, Scaleway, Akamai (Linode).
const METADATA_V6: [[u16; 2]; 5] = [
    [0xfd00, 0x0ec2],
    [0xfd20, 0x00ce],
    [0xfd00, 0x00c1],
    [0xfd00, 0x0042],
    [0xfd00, 0xa9fe],
];

/// The kind of network that an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressClass {
    /// The public internet.
    Public,
    /// This machine, a private network, or one that a provider's customers share.
    Private,
    /// Link-local, a cloud's metadata service, multicast, broadcast, unspecified, reserved, or a tunnel with an unknown
    /// end: no registry and no webhook is there.
    Never,
}

impl AddressClass {
    /// Returns the class of an address; one that carries an IPv4 address has the class of that.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }
}

/// After the IANA registry of special-purpose IPv4 addresses.
fn of_v4(address: Ipv4Addr) -> AddressClass {
    if METADATA_V4.contains(&address) {
        return AddressClass::Never;
    }
    match address.octets() {
        [10 | 127, ..] | [192, 168, ..] => AddressClass::Private,
        [172, second, ..] if second & 0b1111_0000 == 16 => AddressClass::Private,
        // Shared by a provider's customers (RFC 6598), and networks of benchmarks, which VPNs use.
        [100, second, ..] if second & 0b1100_0000 == 64 => AddressClass::Private,
        [198, 18 | 19, ..] => AddressClass::Private,
        // This network, multicast, reserved, broadcast.
        [0 | 224.., ..] => AddressClass::Never,
        [169, 254, ..] => AddressClass::Never,
        // Protocol assignments, documentation, the old relay of 6to4.
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 51, 100, _] | [203, 0, 113, _] => {
            AddressClass::Never
        }
        _ => AddressClass::Public,
    }
}

/// After the IANA registry of special-purpose IPv6 addresses; of the rest only global unicast is public.
fn of_v6(address: Ipv6Addr) -> AddressClass {
    if address == Ipv6Addr::LOCALHOST {
        return AddressClass::Private;
    }
    match address.segments() {
        // IPv4-mapped, and NAT64 with the well-known prefix (RFC 6052).
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            of_v4(embedded_ipv4(high, low))
        }
        // ISATAP: whatever the network, the packet goes to the IPv4 address.
        [.., 0 | 0x200, 0x5efe, _, _] => AddressClass::Never,
        // 6to4.
        [0x2002, high, low, ..] => of_v4(embedded_ipv4(high, low)),
        // Protocol assignments with Teredo and ORCHID, and documentation.
        [0x2001, 0..=0x01ff | 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => AddressClass::Never,
        [first, second, ..] if METADATA_V6.contains(&[first, second]) => AddressClass::Never,
        [0xfc00..=0xfdff, ..] => AddressClass::Private,
        [0x2000..=0x3fff, ..] => AddressClass::Public,
        // Unspecified, IPv4-compatible, NAT64 of a network's own, link-local, site-local, multicast, and all else.
        _ => AddressClass::Never,
    }
}

fn embedded_ipv4(high: u16, low: u16) -> Ipv4Addr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d)
}

/// An address that may not be connected to.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct ForbiddenAddress {
    /// The host as the URL names it.
    pub host: String,
    /// The address that it has.
    pub address: IpAddr,
    /// The kind of network that it belongs to.
    pub class: AddressClass,
}

impl fmt::Display for ForbiddenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.class {
            AddressClass::Public => "a public address",
            AddressClass::Private => "no public address",
            AddressClass::Never => {
                "a link-local, metadata or reserved address, which is never connected to"
            }
        };
        write!(f, "`{}` is at {}, {kind}", self.host, self.address)
    }
}

/// Decides which addresses may be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressGuard {
    /// Only the public internet.
    PublicOnly,
    /// The public internet and private networks, this machine among them.
    PrivateAllowed,
}

impl AddressGuard {
    /// Checks one address of a host.
    ///
    /// # Errors
    /// An address that may not be connected to.
    pub fn check(self, host: &str, address: IpAddr) -> Result<(), ForbiddenAddress> {
        let class = AddressClass::of(address);
        match (class, self) {
            (AddressClass::Public, _) | (AddressClass::Private, Self::PrivateAllowed) => Ok(()),
            (AddressClass::Private, Self::PublicOnly) | (AddressClass::Never, _) => {
                Err(ForbiddenAddress {
                    host: host.to_owned(),
                    address,
                    class,
                })
            }
        }
    }

    /// Checks an address that a URL holds itself, which no resolver sees.
    ///
    /// # Errors
    /// As [`AddressGuard::check`].
    pub fn check_url(self, url: &Url) -> Result<(), ForbiddenAddress> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        self.check(url.host_str().unwrap_or_default(), address)
    }

    /// Returns those addresses of a name that may be connected to.
    ///
    /// # Errors
    /// A name of which no address may be connected to.
    pub fn permitted(
        self,
        host: &str,
        resolved: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Vec<SocketAddr>, ForbiddenAddress> {
        let mut refused = None;
        let mut permitted = Vec::new();
        for address in resolved {
            match self.check(host, address.ip()) {
                Ok(()) => permitted.push(address),
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) if permitted.is_empty() => Err(error),
            _ => Ok(permitted),
        }
    }
}

#[cfg(test)]
mod tests;
