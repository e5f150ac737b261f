//! `sluice nats-config`: prints a least-privilege configuration for a nats-server that `sluice up` does not start.

use std::net::SocketAddr;
use std::path::PathBuf;

use sluice_bus::ServerConfig;
use sluice_gateway::NATS_PASSWORDS_FILE;

use crate::arguments::connection::Connection;
use crate::output::lines;

/// The comment before the configuration.
const HEAD: &str = "# Written by `sluice nats-config`: what each service may do at NATS. Change it there, not here.\n\
                    # Put `nats/passwords.conf` of `sluice keys DIR` beside this file; both are read again on SIGHUP.\n";

/// Print a least-privilege nats-server configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sluice nats-config --listen 0.0.0.0:4222 > nats.conf")]
pub(crate) struct Arguments {
    /// Listen address of the server.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:4222")]
    listen: SocketAddr,
    /// Folder of its streams.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/nats")]
    store: PathBuf,
    /// Certificate, a PEM file.
    #[arg(long, value_name = "FILE", default_value = "/etc/nats/tls/server.pem")]
    certificate: PathBuf,
    /// Key of the certificate, a PEM file.
    #[arg(long, value_name = "FILE", default_value = "/etc/nats/tls/server.key")]
    key: PathBuf,
    /// Leave TLS out: passwords and events can then be read on the way.
    #[arg(long)]
    plain_text: bool,
}

impl Arguments {
    /// Prints the configuration.
    pub(crate) fn run(self, _: &Connection) -> anyhow::Result<()> {
        lines(self.text().trim_end())
    }

    fn text(&self) -> String {
        let tls = (!self.plain_text).then_some((&*self.certificate, &*self.key));
        let config = ServerConfig {
            listen: self.listen,
            store: &self.store,
            ports: None,
            tls,
            passwords: NATS_PASSWORDS_FILE,
        };
        format!("{HEAD}{}", config.render())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Defaults {
        #[command(flatten)]
        arguments: Arguments,
    }

    /// `UPDATE=1` updates the file.
    #[test]
    fn the_file_that_is_delivered_is_what_the_permissions_say() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats.conf");
        let text = Defaults::parse_from(["nats-config"]).arguments.text();
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let there = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            there == text,
            "`UPDATE=1 cargo test -p sluice-cli` updates deploy/nats.conf"
        );
    }
}
