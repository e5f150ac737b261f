//! The options for the registries of a copy.

use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::Args;
use sluice_copier::{EndpointOptions, RegistryOptions};
use sluice_domain::RegistryHost;

use super::connection::Connection;

/// How registries are reached; passwords are never arguments.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Registries")]
pub(crate) struct RegistryArguments {
    /// Account at the source.
    #[arg(long, value_name = "NAME", requires = "src_password_file")]
    src_username: Option<String>,
    /// File with the password or token of the source account.
    #[arg(long, value_name = "FILE", requires = "src_username")]
    src_password_file: Option<PathBuf>,
    /// PEM file with the certificate authorities to trust at the source, instead of the public ones.
    #[arg(long, value_name = "FILE")]
    src_ca_file: Option<PathBuf>,
    /// Account at the destination.
    #[arg(long, value_name = "NAME", requires = "dest_password_file")]
    dest_username: Option<String>,
    /// File with the password or token of the destination account.
    #[arg(long, value_name = "FILE", requires = "dest_username")]
    dest_password_file: Option<PathBuf>,
    /// PEM file with the certificate authorities to trust at the destination, instead of the public ones.
    #[arg(long, value_name = "FILE")]
    dest_ca_file: Option<PathBuf>,
    /// Registry that speaks HTTP without TLS, with its port; may be repeated.
    #[arg(long, value_name = "HOST")]
    plain_http: Vec<RegistryHost>,
    /// Host, with its port, that issues tokens for a registry of another name; may be repeated.
    #[arg(long, value_name = "HOST")]
    realm: Vec<RegistryHost>,
    /// Maximum bytes of layers per second to and from each registry, as in `20M`.
    #[arg(long, value_name = "BYTES", value_parser = bandwidth)]
    bandwidth: Option<NonZeroU64>,
    /// Maximum number of concurrent requests of copies.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(2..=4096))]
    max_connections: Option<u32>,
}

impl RegistryArguments {
    /// Returns the options, with the registry of a running `sluice up`.
    pub(crate) fn options(&self, connection: &Connection) -> RegistryOptions {
        RegistryOptions {
            source: EndpointOptions {
                username: self.src_username.clone(),
                password_file: self.src_password_file.clone(),
                ca_file: self.src_ca_file.clone(),
            },
            destination: EndpointOptions {
                username: self.dest_username.clone(),
                password_file: self.dest_password_file.clone(),
                ca_file: self.dest_ca_file.clone(),
            },
            plain_http: self.plain_http.clone(),
            token_hosts: self.realm.clone(),
            embedded: connection.embedded_registry(),
            bandwidth: self.bandwidth,
            max_connections: self.max_connections,
        }
    }
}

/// Parses a number of bytes with an optional unit of thousands.
fn bandwidth(text: &str) -> Result<NonZeroU64, String> {
    const EXPECTED: &str = "expected bytes per second, as in `500k`, `20M` or `1G`";
    let (digits, scale) = match text.chars().last() {
        Some('k' | 'K') => (text.get(..text.len() - 1), 1_000),
        Some('m' | 'M') => (text.get(..text.len() - 1), 1_000_000),
        Some('g' | 'G') => (text.get(..text.len() - 1), 1_000_000_000),
        _ => (Some(text), 1),
    };
    let number = digits.and_then(|digits| digits.parse::<u64>().ok());
    let bytes = number.and_then(|number| number.checked_mul(scale));
    bytes
        .and_then(NonZeroU64::new)
        .ok_or_else(|| EXPECTED.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bandwidth_is_a_number_with_a_unit() {
        for (text, bytes) in [("1", 1), ("500k", 500_000), ("20M", 20_000_000)] {
            assert_eq!(bandwidth(text).unwrap().get(), bytes);
        }
        for bad in ["", "0", "M", "-1", "1T", "20MB", "99999999999999G", "é"] {
            assert!(bandwidth(bad).is_err(), "{bad}");
        }
    }
}
