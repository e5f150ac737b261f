//! Checks of the options before anything is started: programs, addresses, settings of the services.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sluice_bus::StreamLimits;
use sluice_gateway::KeyFolder;
use url::Url;

use crate::endpoints::{DEFAULT_NATS_URL, Endpoints, NatsEndpoint};
use crate::options::{Options, ResourceFile};
use crate::programs;
use crate::services::{ServiceSettings, StackSettings};

/// Checked options, with the addresses reserved.
#[derive(Debug)]
pub(crate) struct StartupCheck {
    pub(crate) resources: Vec<ResourceFile>,
    pub(crate) nats: Server<NatsEndpoint, SocketAddr>,
    pub(crate) registry: Server<Url, TcpListener>,
    pub(crate) tokens: TcpListener,
    pub(crate) api: TcpListener,
    pub(crate) trivy: PathBuf,
    pub(crate) public_url: Option<Url>,
    pub(crate) allow_plain_text: bool,
    pub(crate) limits: StreamLimits,
}

/// A server that runs already, or the program to start and its address.
#[derive(Debug)]
pub(crate) enum Server<E, L> {
    External(E),
    Child(PathBuf, L),
}

impl StartupCheck {
    /// Checks the options.
    pub(crate) fn new(options: Options) -> anyhow::Result<Self> {
        if !options.allow_plain_text {
            options.refuse_plain_text()?;
        }
        let (named, tools) = (&options.programs, &options.programs.tools);
        let nats = match options.nats {
            Some(nats) => Server::External(nats),
            None => {
                let program = programs::nats_server(named.nats_server.as_deref(), tools)?;
                drop(reserve(options.nats_listen, "--nats-listen")?);
                Server::Child(program, options.nats_listen)
            }
        };
        let registry = match options.registry_url {
            Some(url) => Server::External(url),
            None => {
                let program = programs::registry(named.registry.as_deref(), tools)?;
                let listener = reserve(options.registry_listen, "--registry-listen")?;
                Server::Child(program, listener)
            }
        };
        drop(reserve(options.health_listen, "--health-listen")?);
        let plan = Self {
            resources: options.resources,
            nats,
            registry,
            tokens: reserve(options.tokens_listen, "--tokens-listen")?,
            api: reserve(options.api_listen, "--api-listen")?,
            trivy: programs::trivy(named.trivy.as_deref(), tools)?,
            public_url: options.public_url,
            allow_plain_text: options.allow_plain_text,
            limits: options.limits,
        };
        plan.check_services()?;
        Ok(plan)
    }

    /// Checks the settings of the services; only the port of nats-server is not known yet.
    fn check_services(&self) -> anyhow::Result<()> {
        let nats = NatsEndpoint {
            url: DEFAULT_NATS_URL.to_owned(),
            ..Default::default()
        };
        let keys = KeyFolder::at(PathBuf::new());
        let settings = StackSettings {
            endpoints: &self.endpoints(nats, &keys)?,
            keys: &keys,
            secrets: Path::new(""),
            trivy: &self.trivy,
            trivy_folder: Path::new(""),
            public_url: self.public_url.as_ref(),
            allow_plain_text: self.allow_plain_text,
        };
        ServiceSettings::new(&settings).check()
    }

    /// Returns the endpoints; the address of health is unknown until its listener runs.
    pub(crate) fn endpoints(
        &self,
        nats: NatsEndpoint,
        keys: &KeyFolder,
    ) -> anyhow::Result<Endpoints> {
        let registry = match &self.registry {
            Server::External(url) => url.to_string(),
            Server::Child(_, listener) => url_of(listener)?,
        };
        Ok(Endpoints {
            pid: std::process::id(),
            nats,
            registry,
            tokens: url_of(&self.tokens)?,
            api: url_of(&self.api)?,
            api_token_file: keys.api_token(),
            health: String::new(),
        })
    }
}

/// Binds an address, so that no other process takes it before its server starts; port 0 becomes a free one.
fn reserve(listen: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen).with_context(|| {
        format!("cannot listen on `{listen}`; choose another address with {option}")
    })
}

/// Returns the address of a listener.
pub(crate) fn address_of(listener: &TcpListener) -> anyhow::Result<SocketAddr> {
    listener
        .local_addr()
        .context("failed to read the address of a listener")
}

fn url_of(listener: &TcpListener) -> anyhow::Result<String> {
    Ok(format!("http://{}", address_of(listener)?))
}
