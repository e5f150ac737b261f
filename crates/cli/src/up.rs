//! `up`: the embedded default. Starts nats-server and a registry, and runs every service in this process.

mod child;
mod data;
mod disk;
mod leftovers;
mod programs;
mod servers;
mod stages;
mod summary;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use sluice_bus::{Bus, ProvisionOptions, StreamLimits};
use sluice_domain::resources::Document;
use sluice_gateway::keys::Keys;
use sluice_service::{Host, HttpSettings, write_private};
use url::Url;

use self::child::Children;
use self::data::DataFolder;
use self::stages::{StackSettings, Variables};
use crate::Limits;
use crate::endpoints::{Endpoints, NatsEndpoint, reachable};
use crate::resources;

/// The name of the process in logs and traces.
const NAME: &str = "sluice";

/// What `up` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// YAML file with resources to apply; may be repeated.
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Listen address of nats-server; port 0 takes a free one.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SLUICE_NATS_LISTEN",
        default_value = "127.0.0.1:4222"
    )]
    nats_listen: SocketAddr,
    /// Listen address of the registry; port 0 takes a free one.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SLUICE_REGISTRY_LISTEN",
        default_value = "127.0.0.1:5000"
    )]
    registry_listen: SocketAddr,
    /// Listen address of the registry's token issuer; port 0 takes a free one.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SLUICE_TOKENS_LISTEN",
        default_value = "127.0.0.1:8481"
    )]
    tokens_listen: SocketAddr,
    /// Listen address of the REST API; port 0 takes a free one.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SLUICE_API_LISTEN",
        default_value = "127.0.0.1:8480"
    )]
    api_listen: SocketAddr,
    /// Listen address of health and metrics; port 0 takes a free one.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SLUICE_HEALTH_LISTEN",
        default_value = "127.0.0.1:8479"
    )]
    health_listen: SocketAddr,
    /// Folder with a password for each service at the NATS of `--nats`, as `sluice keys` creates it
    /// [default: every service uses `--nats-user`].
    #[arg(long, value_name = "DIR", env = "SLUICE_NATS_PASSWORDS")]
    nats_passwords: Option<PathBuf>,
    /// Use this registry instead of starting one.
    #[arg(long, value_name = "URL", conflicts_with = "registry_listen")]
    registry_url: Option<Url>,
    /// nats-server to start [default: from `--tools` or PATH].
    #[arg(long, value_name = "FILE", env = "SLUICE_NATS_SERVER")]
    nats_server: Option<PathBuf>,
    /// Distribution to start [default: from `--tools` or PATH].
    #[arg(long, value_name = "FILE", env = "SLUICE_REGISTRY_PROGRAM")]
    registry_program: Option<PathBuf>,
    /// Trivy to scan with [default: from `--tools` or PATH].
    #[arg(long, value_name = "FILE", env = "SLUICE_TRIVY")]
    trivy: Option<PathBuf>,
    /// Folder that `deploy/tools` has filled.
    #[arg(
        long,
        value_name = "DIR",
        env = "SLUICE_TOOLS",
        default_value = ".tools"
    )]
    tools: PathBuf,
    /// Seconds to wait for unfinished work at the end.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    grace_seconds: u64,
    #[command(flatten)]
    limits: Limits,
}

/// What was checked before anything is started.
#[derive(Debug)]
struct Plan {
    documents: Vec<(PathBuf, Vec<Document>)>,
    nats: Server<NatsEndpoint, SocketAddr>,
    registry: Server<Url, TcpListener>,
    tokens: TcpListener,
    api: TcpListener,
    trivy: PathBuf,
    allow_plain_text: bool,
    limits: StreamLimits,
    /// The folder of the secrets that resources name.
    secrets: PathBuf,
}

/// A server that runs elsewhere, or one to start and where it listens.
#[derive(Debug)]
enum Server<E, L> {
    Elsewhere(E),
    Ours(PathBuf, L),
}

/// Runs everything until it is told to stop.
///
/// # Errors
/// What is wrong with the arguments, files or programs; nothing has been started then.
pub(crate) fn up(
    arguments: &Arguments,
    folder: &Path,
    secrets: Option<&Path>,
    nats: Option<NatsEndpoint>,
    allow_plain_text: bool,
) -> anyhow::Result<ExitCode> {
    let telemetry = sluice_telemetry::init(NAME, env!("CARGO_PKG_VERSION"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    // A new folder is made only for arguments that are right. What a killed run left behind on an old one still has the
    // addresses that are checked.
    let begun = DataFolder::open_begun(folder)?;
    if let Some(data) = &begun {
        runtime.block_on(leftovers::stop(data.path()))?;
    }
    let mut plan = Plan::new(arguments, nats, allow_plain_text)?;
    let data = begun.map_or_else(|| DataFolder::open(folder), Ok)?;
    plan.secrets = secrets.map_or_else(|| data.join(crate::connection::SECRETS), Path::to_path_buf);
    let (host, children) = (Host::new(NAME), Children::default());
    let http = HttpSettings {
        listen: arguments.health_listen,
        address_file: Some(data.join("health.address")),
        grace_seconds: arguments.grace_seconds,
    };
    let code = runtime.block_on(async {
        let start = Box::pin(start(plan, &data, folder, &host, &children));
        let code = sluice_service::run(telemetry, &host, &http, start).await;
        // There is none where the start has failed.
        std::fs::remove_file(Endpoints::file(data.path())).ok();
        children.stop().await;
        // Told to stop a second time, services leave what they have started.
        if let Err(error) = leftovers::stop(data.path()).await {
            tracing::error!(error = format!("{error:#}"), "something was left behind");
        }
        code
    });
    // A blocking call that hangs must not keep the process.
    runtime.shutdown_background();
    Ok(code)
}

impl Arguments {
    /// Refuses to serve passwords and tokens in plain text beyond this machine; health and metrics have neither.
    fn refuse_plain_text(&self, starts_nats: bool) -> anyhow::Result<()> {
        let nats = starts_nats.then_some(("--nats-listen", self.nats_listen));
        let registry = self.registry_url.is_none();
        let registry = registry.then_some(("--registry-listen", self.registry_listen));
        let others = [
            ("--tokens-listen", self.tokens_listen),
            ("--api-listen", self.api_listen),
        ];
        for (option, listen) in nats.into_iter().chain(registry).chain(others) {
            anyhow::ensure!(
                listen.ip().is_loopback(),
                "{option} is `{listen}`, where passwords and tokens would come in plain text from other machines: \
                 listen on 127.0.0.1 behind a proxy with TLS, or give --allow-plain-text where nobody else is on that network"
            );
        }
        Ok(())
    }
}

impl Plan {
    fn new(
        arguments: &Arguments,
        nats: Option<NatsEndpoint>,
        allow_plain_text: bool,
    ) -> anyhow::Result<Self> {
        if !allow_plain_text {
            arguments.refuse_plain_text(nats.is_none())?;
        }
        let read = |file: &PathBuf| Ok((file.clone(), resources::read(file)?));
        let documents = arguments.files.iter().map(read);
        let documents = documents.collect::<anyhow::Result<_>>()?;
        let tools = &arguments.tools;
        let nats = match nats {
            Some(nats) => Server::Elsewhere(NatsEndpoint {
                passwords: arguments.nats_passwords.clone(),
                ..nats
            }),
            None => {
                let program = programs::nats_server(arguments.nats_server.as_deref(), tools)?;
                drop(reserve(arguments.nats_listen, "--nats-listen")?);
                Server::Ours(program, arguments.nats_listen)
            }
        };
        let registry = match &arguments.registry_url {
            Some(url) => Server::Elsewhere(url.clone()),
            None => {
                let program = programs::registry(arguments.registry_program.as_deref(), tools)?;
                let listener = reserve(arguments.registry_listen, "--registry-listen")?;
                Server::Ours(program, listener)
            }
        };
        drop(reserve(arguments.health_listen, "--health-listen")?);
        let plan = Self {
            documents,
            nats,
            registry,
            tokens: reserve(arguments.tokens_listen, "--tokens-listen")?,
            api: reserve(arguments.api_listen, "--api-listen")?,
            trivy: programs::trivy(arguments.trivy.as_deref(), tools)?,
            allow_plain_text,
            limits: arguments.limits.read()?,
            secrets: PathBuf::new(),
        };
        // nats-server chooses its own port, but everything else is known and can be checked.
        let nats = NatsEndpoint {
            url: crate::connection::NATS.to_owned(),
            ..Default::default()
        };
        let keys = Keys::at(PathBuf::new());
        let known = StackSettings {
            endpoints: &plan.endpoints(nats, &keys)?,
            keys: &keys,
            secrets: &plan.secrets,
            trivy: &plan.trivy,
            trivy_folder: Path::new(""),
            allow_plain_text,
        };
        Variables::new(&known).check()?;
        Ok(plan)
    }

    fn endpoints(&self, nats: NatsEndpoint, keys: &Keys) -> anyhow::Result<Endpoints> {
        let registry = match &self.registry {
            Server::Elsewhere(url) => url.to_string(),
            Server::Ours(_, listener) => url_of(listener)?,
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

/// Takes an address, so that nobody else does before its server is started; port 0 becomes a free one.
fn reserve(listen: SocketAddr, option: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(listen).with_context(|| {
        format!("`{listen}` cannot be listened on; {option} chooses another address")
    })
}

fn url_of(listener: &TcpListener) -> anyhow::Result<String> {
    let address = listener.local_addr().context("an address was lost")?;
    Ok(format!("http://{address}"))
}

/// Starts the servers, then what needs them.
async fn start(
    mut plan: Plan,
    data: &DataFolder,
    folder: &Path,
    host: &Host,
    children: &Children,
) -> anyhow::Result<()> {
    let keys = Keys::at(data.join("keys"));
    keys.create()?;
    let nats = match &mut plan.nats {
        Server::Elsewhere(nats) => std::mem::take(nats),
        Server::Ours(program, listen) => {
            servers::start_nats(children, host, program, *listen, data, &keys).await?
        }
    };
    let applied = prepare(&nats, plan.limits, &plan.documents).await?;
    let mut endpoints = plan.endpoints(nats, &keys)?;
    let variables = Variables::new(&StackSettings {
        endpoints: &endpoints,
        keys: &keys,
        secrets: &plan.secrets,
        trivy: &plan.trivy,
        trivy_folder: &data.join("trivy"),
        allow_plain_text: plan.allow_plain_text,
    });
    drop((plan.tokens, plan.api));
    // The registry reads no manifest and writes none without a token, so its issuer comes first.
    variables.start_gateway(host).await?;
    if let Server::Ours(program, listener) = plan.registry {
        let listen = listener.local_addr().context("an address was lost")?;
        let config = servers::registry_config(listen, data, &reachable(&endpoints.tokens), &keys)?;
        drop(listener);
        servers::start_registry(children, host, &program, listen, data, &config).await?;
    }
    variables.start_stages(host).await?;
    let health = std::fs::read_to_string(data.join("health.address"))
        .context("the address of the health endpoint is not known")?;
    endpoints.health = format!("http://{health}");
    let json = serde_json::to_string_pretty(&endpoints)?;
    write_private(&Endpoints::file(data.path()), &json)?;
    summary::show(&endpoints, folder, &applied);
    Ok(())
}

/// Provisions the bus and applies the resources.
async fn prepare(
    nats: &NatsEndpoint,
    limits: StreamLimits,
    documents: &[(PathBuf, Vec<Document>)],
) -> anyhow::Result<Vec<String>> {
    let bus = Bus::connect(&nats.settings(), "up").await?;
    let options = ProvisionOptions {
        limits,
        ..Default::default()
    };
    bus.provision(options).await?;
    let mut applied = Vec::new();
    for (file, documents) in documents {
        let stored = resources::store(&bus, file, documents).await?;
        let changed = stored.iter().filter(|(_, changed)| *changed).count();
        applied.push(format!(
            "{}: {} resources, {changed} of them new or changed",
            file.display(),
            stored.len()
        ));
    }
    Ok(applied)
}
