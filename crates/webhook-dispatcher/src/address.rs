//! Which addresses may be spoken to: public ones, unless a webhook allows others.
//!
//! The check is made on the addresses that are connected to, so a name that changes its address passes no check twice.

use std::net::{IpAddr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use sluice_domain::address::is_public;
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

#[cfg(test)]
mod tests {
    use super::*;

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
