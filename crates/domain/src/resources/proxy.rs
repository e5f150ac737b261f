//! The proxy of a registry, as it is written in its resource.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::name::{InvalidName, RegistryHost};

/// Which proxy is between here and a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(title = "proxy")]
pub enum ProxySetting {
    /// What the variables `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of each service say.
    Environment,
    /// The one at this address.
    Server(Url),
}

/// How the setting is written that leaves it to the environment.
const ENVIRONMENT: &str = "environment";

impl FromStr for ProxySetting {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected an address, as in `http://proxy.example:3128`, or `environment` for what HTTPS_PROXY and NO_PROXY say";
        const SECRET: &str =
            "credentials do not belong in an address; use `proxy_username` and `proxy_password`";
        if text == ENVIRONMENT {
            return Ok(Self::Environment);
        }
        let url = Url::parse(text).map_err(|_| InvalidName::new("proxy", text, EXPECTED))?;
        if !url.username().is_empty() || url.password().is_some() {
            // What is in the address is a secret, so it is not repeated.
            return Err(InvalidName::new("proxy", url.scheme(), SECRET));
        }
        let is_server = matches!(url.scheme(), "http" | "https") && url.has_host();
        if !is_server || url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidName::new("proxy", text, EXPECTED));
        }
        Ok(Self::Server(url))
    }
}

impl TryFrom<String> for ProxySetting {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for ProxySetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str(ENVIRONMENT),
            Self::Server(url) => f.write_str(url.as_str().trim_end_matches('/')),
        }
    }
}

impl From<ProxySetting> for String {
    fn from(setting: ProxySetting) -> Self {
        setting.to_string()
    }
}

/// What is reached without a proxy: one entry of `no_proxy`, or of the variable `NO_PROXY`.
///
/// An address, a network, or a domain, which covers what is below it; `*` for everything. An address or a domain may have a
/// port, and stands for that port alone then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyBypass {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    All,
    /// The addresses that begin with so many bits of this one.
    Network(IpAddr, u8),
    Domain(String),
}

impl ProxyBypass {
    /// Returns whether a host, as an URL names it, is reached without a proxy at this port.
    #[must_use]
    pub fn covers(&self, host: &str, port: u16) -> bool {
        let host = host.trim_matches(['[', ']']);
        let is_at = match &self.hosts {
            Hosts::All => true,
            Hosts::Network(network, length) => host
                .parse()
                .is_ok_and(|address| prefix(address, *length) == prefix(*network, *length)),
            Hosts::Domain(domain) => {
                let host = host.to_ascii_lowercase();
                let above = host.strip_suffix(domain.as_str());
                above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
            }
        };
        is_at && self.port.is_none_or(|own| own == port)
    }
}

/// Returns the first bits of an address; nothing for more bits than it has.
fn prefix(address: IpAddr, length: u8) -> Option<(bool, u128)> {
    let (bits, width) = match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let dropped = u32::checked_sub(width, length.into())?;
    Some((address.is_ipv4(), bits.checked_shr(dropped).unwrap_or(0)))
}

impl FromStr for ProxyBypass {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a host, a domain, a network or `*`, as in `registry.internal:5000`, `.example.com` or `10.0.0.0/8`";
        let invalid = || InvalidName::new("host without a proxy", text, EXPECTED);
        let everywhere = |hosts| Self { hosts, port: None };
        if text == "*" {
            return Ok(everywhere(Hosts::All));
        }
        if let Some((address, length)) = text.split_once('/') {
            let address = address.parse().map_err(|_| invalid())?;
            let length = length.parse().map_err(|_| invalid())?;
            prefix(address, length).ok_or_else(invalid)?;
            return Ok(everywhere(Hosts::Network(address, length)));
        }
        let whole = |address| match address {
            IpAddr::V4(_) => Hosts::Network(address, 32),
            IpAddr::V6(_) => Hosts::Network(address, 128),
        };
        // The colons of an address are not in front of a port.
        if let Ok(address) = text.trim_matches(['[', ']']).parse() {
            return Ok(everywhere(whole(address)));
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().map_err(|_| invalid())?)),
            None => (text, None),
        };
        if let Ok(address) = name.trim_matches(['[', ']']).parse() {
            let hosts = whole(address);
            return Ok(Self { hosts, port });
        }
        let domain = name.strip_prefix('*').filter(|rest| rest.starts_with('.'));
        let domain = domain.unwrap_or(name);
        let domain = domain.strip_prefix('.').unwrap_or(domain);
        domain.parse::<RegistryHost>().map_err(|_| invalid())?;
        Ok(Self {
            hosts: Hosts::Domain(domain.to_ascii_lowercase()),
            port,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_proxy_is_named_by_address_network_domain_and_port() {
        for (entry, hosts, others) in [
            ("*", &["a.b:1", "10.0.0.1:2", "[::1]:3"][..], &[][..]),
            (
                "10.0.0.0/8",
                &["10.9.8.7:1"],
                &["11.0.0.1:1", "a.b:1", "[::1]:1"],
            ),
            (
                "fd00::/8",
                &["[fd00::1]:1"],
                &["[fe00::1]:1", "253.0.0.1:1"],
            ),
            ("0.0.0.0/0", &["1.2.3.4:1"], &["[::1]:1"]),
            ("10.0.0.1", &["10.0.0.1:1", "10.0.0.1:2"], &["10.0.0.2:1"]),
            ("10.0.0.1:5000", &["10.0.0.1:5000"], &["10.0.0.1:443"]),
            ("::1", &["[::1]:1"], &["[::2]:1"]),
            ("[::1]:5000", &["[::1]:5000"], &["[::1]:443", "[::2]:5000"]),
            (
                "example.com",
                &["example.com:1", "a.Example.com:2"],
                &["notexample.com:1"],
            ),
            (
                ".example.com",
                &["example.com:1", "a.b.example.com:2"],
                &["example.org:1"],
            ),
            (
                "*.example.com",
                &["a.example.com:1"],
                &["example.com.evil:1"],
            ),
            (
                "example.com:5000",
                &["a.example.com:5000"],
                &["example.com:443"],
            ),
            ("localhost", &["localhost:1"], &["127.0.0.1:1"]),
        ] {
            let bypass: ProxyBypass = entry.parse().unwrap();
            let covers = |place: &&str| {
                let (host, port) = place.rsplit_once(':').unwrap();
                bypass.covers(host, port.parse().unwrap())
            };
            assert!(hosts.iter().all(covers), "{entry}");
            assert!(!others.iter().any(covers), "{entry}");
        }
        for bad in [
            "",
            " ",
            "a b",
            "a/b",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0.0/",
            "x:y",
            "x:99999",
            "http://x",
            "a*b",
            "**",
            ".",
            "a,b",
        ] {
            assert!(bad.parse::<ProxyBypass>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_proxy_is_an_address_or_the_environment() {
        for good in [
            "environment",
            "http://proxy:3128",
            "https://proxy.example",
            "http://[::1]:8080",
        ] {
            let setting: ProxySetting = good.parse().unwrap();
            assert_eq!(setting.to_string(), good);
        }
        for bad in [
            "",
            "proxy:3128",
            "socks5://p:1",
            "http://",
            "http://p/x",
            "http://p?x",
        ] {
            let message = bad.parse::<ProxySetting>().unwrap_err().to_string();
            assert!(message.contains("http://proxy.example:3128"), "{message}");
        }
    }

    #[test]
    fn a_password_in_the_address_is_refused_and_not_repeated() {
        let text = "http://user:hunter2@proxy:3128";
        let message = text.parse::<ProxySetting>().unwrap_err().to_string();
        assert!(message.contains("proxy_password"), "{message}");
        assert!(
            !message.contains("hunter2") && !message.contains("user:"),
            "{message}"
        );
    }
}
