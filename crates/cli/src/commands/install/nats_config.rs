//! `sluice nats-config`: prints a least-privilege configuration for a nats-server that `sluice up` does not start.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use sluice_bus::{ServerConfig, Subscriber, permissions, render_accounts};
use sluice_gateway::{KeyFolder, NATS_PASSWORDS_FILE};

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
    /// Print only what this user may publish and subscribe to, as JSON for the JWTs of a NATS with an operator.
    #[arg(long, value_name = "USER")]
    permissions: Option<String>,
    /// Folder of keys whose subscribers get their users.
    #[arg(long, value_name = "DIR", env = "SLUICE_KEYS")]
    keys: Option<PathBuf>,
}

impl Arguments {
    /// Prints the configuration.
    pub(crate) fn run(self, _: &Connection) -> anyhow::Result<()> {
        let subscribers = match &self.keys {
            Some(keys) => KeyFolder::at(keys.clone()).subscribers()?,
            None => Vec::new(),
        };
        match &self.permissions {
            Some(user) => lines(&claims_of(user, &subscribers)?),
            None => lines(self.text(&subscribers).trim_end()),
        }
    }

    fn text(&self, subscribers: &[Subscriber]) -> String {
        let tls = (!self.plain_text).then_some((&*self.certificate, &*self.key));
        let config = ServerConfig {
            listen: self.listen,
            store: &self.store,
            ports: None,
            tls,
        };
        let accounts = render_accounts(NATS_PASSWORDS_FILE, subscribers);
        format!("{HEAD}{}", config.render(&accounts))
    }
}

fn claims_of(user: &str, subscribers: &[Subscriber]) -> anyhow::Result<String> {
    let claims = permissions::claims(user, subscribers).with_context(|| {
        let users = permissions::users().into_iter();
        let users = users.filter(|user| *user != permissions::SYSTEM);
        let subscribers = subscribers.iter().map(Subscriber::user);
        let users: Vec<_> = users.map(ToOwned::to_owned).chain(subscribers).collect();
        format!(
            "`{user}` has no permissions; name one of {}",
            users.join(", ")
        )
    });
    Ok(serde_json::to_string_pretty(&claims?)?)
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

    #[test]
    fn a_user_without_permissions_is_refused_with_the_names_of_those_that_have_some() {
        for user in ["system", "nobody"] {
            let error = claims_of(user, &[]).unwrap_err().to_string();
            assert!(
                error.contains(user) && error.contains("promoter, "),
                "{error}"
            );
        }
        let own = Subscriber::new("own", vec!["sluice.v1.image.>".to_owned()]).unwrap();
        assert!(claims_of("subscriber-own", &[]).is_err());
        assert!(claims_of("subscriber-own", &[own]).is_ok());
        for user in permissions::users() {
            assert_eq!(claims_of(user, &[]).is_ok(), user != "system", "{user}");
        }
    }

    /// `UPDATE=1` updates the file.
    #[test]
    fn the_file_that_is_delivered_is_what_the_permissions_say() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats.conf");
        let text = Defaults::parse_from(["nats-config"]).arguments.text(&[]);
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
