//! How a command finds the installation: the options for NATS, or what a running `sluice up` has written down.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use sluice_bus::Bus;
use sluice_service::Secrets;

use crate::endpoints::{Endpoints, NatsEndpoint};

/// The data folder of `up`, unless another is named.
pub(crate) const DATA: &str = "sluice-data";
/// The folder of secrets in the data folder.
pub(crate) const SECRETS: &str = "secrets";
/// Where NATS is, unless something says otherwise.
pub(crate) const NATS: &str = "nats://127.0.0.1:4222";
/// How long a server may take to start into which a backup is restored.
const START: Duration = Duration::from_secs(5);

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection options")]
pub(crate) struct Connection {
    /// Data folder of `sluice up`, by which a running one is found [default: sluice-data].
    #[arg(long, global = true, env = "SLUICE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Folder of the secrets that resources name [default: `secrets` in the data folder].
    #[arg(long, global = true, env = "SLUICE_SECRETS", value_name = "DIR")]
    pub(crate) secrets: Option<PathBuf>,
    /// NATS server URL, instead of the server of `sluice up`.
    #[arg(
        long,
        visible_alias = "nats-url",
        global = true,
        env = "SLUICE_NATS_URL",
        value_name = "URL"
    )]
    nats: Option<String>,
    /// NATS user name.
    #[arg(long, global = true, env = "SLUICE_NATS_USER", default_value = "")]
    nats_user: String,
    /// File with the password of the NATS user.
    #[arg(
        long,
        global = true,
        env = "SLUICE_NATS_PASSWORD_FILE",
        value_name = "FILE"
    )]
    nats_password_file: Option<PathBuf>,
    /// PEM file with the certificate authorities to trust for NATS; requires TLS.
    #[arg(long, global = true, env = "SLUICE_NATS_CA_FILE", value_name = "FILE")]
    nats_ca_file: Option<PathBuf>,
    /// Allow passwords, tokens and events in plain text beyond this machine: to NATS, and to the listeners of `up`.
    #[arg(long, global = true, env = "SLUICE_ALLOW_PLAIN_TEXT")]
    pub(crate) allow_plain_text: bool,
}

impl Connection {
    /// Returns the data folder of `sluice up`.
    pub(crate) fn folder(&self) -> &Path {
        self.data.as_deref().unwrap_or(Path::new(DATA))
    }

    /// Returns the folder of secrets that was named, or the one in the data folder.
    pub(crate) fn secrets(&self) -> Secrets {
        let folder = self.secrets.clone();
        Secrets::at(folder.unwrap_or_else(|| self.folder().join(SECRETS)))
    }

    /// Returns the server that was named, if one was.
    pub(crate) fn elsewhere(&self) -> Option<NatsEndpoint> {
        self.nats.clone().map(|url| self.at(url))
    }

    fn at(&self, url: String) -> NatsEndpoint {
        NatsEndpoint {
            url,
            user: self.nats_user.clone(),
            password_file: self.nats_password_file.clone(),
            ca_file: self.nats_ca_file.clone(),
            allow_plain_text: self.allow_plain_text,
            passwords: None,
        }
    }

    /// Returns the server that was named, or the one that a running `sluice up` has written down.
    fn endpoint(&self) -> anyhow::Result<NatsEndpoint> {
        if let Some(nats) = self.elsewhere() {
            return Ok(nats);
        }
        match Endpoints::read(self.folder())? {
            // Whoever started it has allowed it, and the address is that of this machine.
            Some(endpoints) => Ok(endpoints.nats),
            None if self.data.is_some() => anyhow::bail!(
                "`{0}` does not say where NATS is; `sluice up --data {0}` has to be running",
                self.folder().display()
            ),
            None => Ok(self.at(NATS.to_owned())),
        }
    }

    /// Connects to NATS.
    pub(crate) async fn open(&self) -> anyhow::Result<Bus> {
        let endpoint = self.endpoint()?;
        Bus::connect(&endpoint.settings(), "cli").await
    }

    /// As [`Connection::open`], for a server that may have been started only just now.
    pub(crate) async fn open_started(&self) -> anyhow::Result<Bus> {
        let until = tokio::time::Instant::now() + START;
        loop {
            match self.open().await {
                Err(_) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                opened => return opened,
            }
        }
    }
}
