//! The networks from which clients send requests, and the limits of each.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use axum::http::HeaderMap;
use ipnet::IpNet;
use serde::Deserialize;

/// The header in which a proxy names its client.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The connection limits of a listener, and the proxies that it trusts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServeSettings {
    /// The most connections of a listener.
    pub connections: usize,
    /// The most connections of one client network.
    pub connections_per_source: usize,
    /// The addresses and networks of proxies whose `X-Forwarded-For` names the client.
    #[serde(default)]
    pub trusted_proxies: Vec<ProxyNetwork>,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            connections: 256,
            connections_per_source: 64,
            trusted_proxies: Vec::new(),
        }
    }
}

/// The network of a proxy, as in `172.18.0.0/16`, or its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ProxyNetwork(IpNet);

impl FromStr for ProxyNetwork {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let network = text.parse().or_else(|_| text.parse().map(IpAddr::into));
        network.map(Self).map_err(|_| {
            format!("`{text}` is no address and no network, as in `192.0.2.1` or `172.18.0.0/16`")
        })
    }
}

impl TryFrom<String> for ProxyNetwork {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl ServeSettings {
    /// Says whether an address is that of a proxy that is trusted.
    pub(super) fn is_trusted_proxy(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let mut networks = self.trusted_proxies.iter();
        networks.any(|ProxyNetwork(network)| network.contains(&address))
    }

    /// Returns the problems with the settings, named after their section.
    #[must_use]
    pub fn problems(&self, section: &str) -> Vec<String> {
        let mut problems = Vec::new();
        if !(8..=65_536).contains(&self.connections) {
            problems.push(format!("`{section}.connections` must be 8 to 65536"));
        }
        if !(4..=self.connections).contains(&self.connections_per_source) {
            problems.push(format!(
                "`{section}.connections_per_source` must be 4 to `{section}.connections`"
            ));
        }
        problems
    }

    /// Returns the client of a request: the peer, or the client that a trusted proxy names. Only the end of the list is
    /// trusted, which the last proxy wrote; the client chooses what comes before.
    pub(super) fn client_network(&self, peer: IpAddr, headers: &HeaderMap) -> ClientNetwork {
        let mut client = peer.to_canonical();
        let hops = headers.get_all(FORWARDED_FOR).iter().rev();
        let mut hops = hops
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.rsplit(','));
        while self.is_trusted_proxy(client) {
            let Some(hop) = hops.next().and_then(parse_address) else {
                break;
            };
            client = hop.to_canonical();
        }
        ClientNetwork::of(client)
    }
}

/// The network of a client: an IPv4 address, or the /64 network of an IPv6 address, which belongs to one customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientNetwork(IpAddr);

impl ClientNetwork {
    /// Returns the network of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        const NETWORK: u128 = !0 << 64;
        Self(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((address.to_bits() & NETWORK).into()),
            address @ IpAddr::V4(_) => address,
        })
    }
}

fn parse_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
    text.parse().or_else(|_| with_port()).ok()
}
