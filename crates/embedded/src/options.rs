//! The options of the embedded mode, and what must not be served in plain text.

use std::net::SocketAddr;
use std::path::PathBuf;

use sluice_bus::StreamLimits;
use sluice_domain::resources::Document;
use url::Url;

use crate::endpoints::NatsEndpoint;

/// What to start, where it listens, and what to apply.
#[derive(Debug)]
pub struct Options {
    /// The data folder.
    pub folder: PathBuf,
    /// The folder of the secrets that resources name; by default one in the data folder.
    pub secrets: Option<PathBuf>,
    /// Resources to apply once the bus is provisioned.
    pub resources: Vec<ResourceFile>,
    /// A NATS server to use instead of starting one.
    pub nats: Option<NatsEndpoint>,
    /// A registry to use instead of starting one.
    pub registry_url: Option<Url>,
    /// The URL by which clients on other machines reach the registry and its token issuer, of a proxy with TLS.
    pub public_url: Option<Url>,
    /// The listen address of nats-server.
    pub nats_listen: SocketAddr,
    /// The listen address of the registry.
    pub registry_listen: SocketAddr,
    /// The listen address of the registry's token issuer.
    pub tokens_listen: SocketAddr,
    /// The listen address of the REST API.
    pub api_listen: SocketAddr,
    /// The listen address of health and metrics.
    pub health_listen: SocketAddr,
    /// Whether passwords and tokens may be sent in plain text beyond this machine.
    pub allow_plain_text: bool,
    /// The server programs.
    pub programs: ProgramOptions,
    /// The size limits of the streams.
    pub limits: StreamLimits,
    /// Seconds to wait for unfinished work when stopping.
    pub grace_seconds: u64,
}

/// Where the server programs are; those that are not named are searched for in `tools` and PATH.
#[derive(Debug)]
pub struct ProgramOptions {
    /// nats-server.
    pub nats_server: Option<PathBuf>,
    /// Distribution.
    pub registry: Option<PathBuf>,
    /// Trivy.
    pub trivy: Option<PathBuf>,
    /// The folder that `deploy/tools` fills.
    pub tools: PathBuf,
}

/// A file of resources that passed its checks.
#[derive(Debug, Clone)]
pub struct ResourceFile {
    /// The file.
    pub path: PathBuf,
    /// Its resources.
    pub documents: Vec<Document>,
}

impl Options {
    /// Refuses to serve passwords and tokens in plain text to other machines; health and metrics contain neither.
    pub(crate) fn refuse_plain_text(&self) -> anyhow::Result<()> {
        let nats = self.nats.is_none();
        let nats = nats.then_some(("--nats-listen", self.nats_listen));
        let registry = self.registry_url.is_none();
        let registry = registry.then_some(("--registry-listen", self.registry_listen));
        let others = [
            ("--tokens-listen", self.tokens_listen),
            ("--api-listen", self.api_listen),
        ];
        for (option, listen) in nats.into_iter().chain(registry).chain(others) {
            anyhow::ensure!(
                listen.ip().is_loopback(),
                "{option} `{listen}` accepts passwords and tokens in plain text from other machines: \
                 listen on 127.0.0.1 behind a proxy with TLS, or pass --allow-plain-text on a trusted network"
            );
        }
        Ok(())
    }
}
