//! How a command finds the installation: by the NATS options, or by the endpoints of a running `sluice up`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use sluice_bus::Bus;
use sluice_domain::RegistryHost;
use sluice_embedded::{DEFAULT_NATS_URL, Endpoints, NatsEndpoint, SECRETS};
use sluice_service::Secrets;

/// The default data folder of `up`.
pub(crate) const DATA: &str = "sluice-data";
/// How long the server may take to start before it is provisioned or a backup is restored.
const START_LIMIT: Duration = Duration::from_secs(5);

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
    /// File with the JWT and key of the NATS user, in place of user and password.
    #[arg(
        long,
        global = true,
        env = "SLUICE_NATS_CREDENTIALS_FILE",
        value_name = "FILE"
    )]
    nats_credentials_file: Option<PathBuf>,
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

    /// Returns the secrets of `--secrets`, or of the data folder.
    pub(crate) fn secrets(&self) -> Secrets {
        let folder = self.secrets.clone();
        Secrets::at(folder.unwrap_or_else(|| self.folder().join(SECRETS)))
    }

    /// Returns the server of `--nats`.
    pub(crate) fn named_server(&self) -> Option<NatsEndpoint> {
        self.nats.clone().map(|url| self.at(url))
    }

    /// Returns the registry of a running `sluice up` and its token issuer, which has another port.
    pub(crate) fn embedded_registry(&self) -> Option<(RegistryHost, RegistryHost)> {
        let endpoints = Endpoints::read(self.folder()).ok().flatten()?;
        endpoints.registry_and_issuer()
    }

    fn at(&self, url: String) -> NatsEndpoint {
        NatsEndpoint {
            url,
            user: self.nats_user.clone(),
            password_file: self.nats_password_file.clone(),
            credentials_file: self.nats_credentials_file.clone(),
            ca_file: self.nats_ca_file.clone(),
            allow_plain_text: self.allow_plain_text,
            passwords: None,
        }
    }

    /// Returns the server of `--nats`, or that of a running `sluice up`.
    fn endpoint(&self) -> anyhow::Result<NatsEndpoint> {
        if let Some(nats) = self.named_server() {
            return Ok(nats);
        }
        match Endpoints::read(self.folder())? {
            Some(endpoints) => Ok(endpoints.nats),
            None if self.data.is_some() => anyhow::bail!(
                "no `sluice up` is running on `{0}`; start `sluice up --data {0}`, or name a server with --nats",
                self.folder().display()
            ),
            None => Ok(self.at(DEFAULT_NATS_URL.to_owned())),
        }
    }

    /// Connects to NATS.
    pub(crate) async fn open(&self) -> anyhow::Result<Bus> {
        let endpoint = self.endpoint()?;
        Bus::connect(&endpoint.settings(), "cli").await
    }

    /// Connects to the same server as another user.
    pub(crate) async fn open_as(&self, user: &str, password_file: PathBuf) -> anyhow::Result<Bus> {
        let endpoint = NatsEndpoint {
            user: user.to_owned(),
            password_file: Some(password_file),
            credentials_file: None,
            ..self.endpoint()?
        };
        Bus::connect(&endpoint.settings(), "cli").await
    }

    /// Connects to a NATS server that may be starting.
    pub(crate) async fn open_starting(&self) -> anyhow::Result<Bus> {
        let until = tokio::time::Instant::now() + START_LIMIT;
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
