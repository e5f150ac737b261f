//! Starts the servers, the services, and applies the resources; stops all of it in order.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use sluice_bus::{Bus, ProvisionOptions, StreamLimits};
use sluice_gateway::KeyFolder;
use sluice_service::{Host, HttpSettings, write_private_file};
use url::Url;

use crate::data_folder::{DataFolder, SECRETS};
use crate::endpoints::{Endpoints, NatsEndpoint, reachable};
use crate::options::{Options, ResourceFile};
use crate::resources;
use crate::servers::{self, Children};
use crate::services::{ServiceSettings, StackSettings};
use crate::startup_check::{Server, StartupCheck, address_of};

/// The name of the process in logs and traces.
const NAME: &str = "sluice";

/// A file of resources that was applied.
#[derive(Debug)]
pub struct AppliedFile {
    /// The file.
    pub path: PathBuf,
    /// The number of its resources.
    pub count: usize,
    /// The number of resources that are new or changed.
    pub changed: usize,
}

/// Runs everything until the process is asked to stop; `on_ready` is called once everything is up.
///
/// # Errors
/// The options, files or programs cannot be used; nothing has been started.
pub fn run(
    mut options: Options,
    on_ready: impl FnOnce(&Endpoints, &[AppliedFile]),
) -> anyhow::Result<ExitCode> {
    let telemetry = sluice_telemetry::init(NAME, env!("CARGO_PKG_VERSION"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let folder = options.folder.clone();
    let existing = DataFolder::open_existing(&folder)?;
    if let Some(data) = &existing {
        // The servers of a killed run still have the addresses that are checked next.
        runtime.block_on(servers::stop_orphans(data.path()))?;
    }
    let secrets = options.secrets.take();
    let (health_listen, grace_seconds) = (options.health_listen, options.grace_seconds);
    let plan = StartupCheck::new(options)?;
    // A new folder is created only for valid options.
    let data = existing.map_or_else(|| DataFolder::open(&folder), Ok)?;
    let secrets = secrets.unwrap_or_else(|| data.join(SECRETS));
    let (host, children) = (Host::new(NAME), Children::default());
    let http = HttpSettings {
        listen: health_listen,
        address_file: Some(data.join("health.address")),
        grace_seconds,
    };
    let code = runtime.block_on(async {
        let start = async {
            let (endpoints, applied) = start(plan, &secrets, &data, &host, &children).await?;
            on_ready(&endpoints, &applied);
            Ok(())
        };
        let code = sluice_service::run(telemetry, &host, &http, Box::pin(start)).await;
        // The file is missing if the start failed.
        std::fs::remove_file(Endpoints::file(data.path())).ok();
        children.stop().await;
        // A second signal stops the services before they have stopped their own children.
        if let Err(error) = servers::stop_orphans(data.path()).await {
            tracing::error!(
                error = format!("{error:#}"),
                "failed to stop orphaned servers"
            );
        }
        code
    });
    // A blocking call that hangs must not keep the process.
    runtime.shutdown_background();
    Ok(code)
}

/// Starts the servers, then the services.
async fn start(
    mut plan: StartupCheck,
    secrets: &Path,
    data: &DataFolder,
    host: &Host,
    children: &Children,
) -> anyhow::Result<(Endpoints, Vec<AppliedFile>)> {
    let keys = KeyFolder::at(data.join("keys"));
    keys.create()?;
    let nats = match &mut plan.nats {
        Server::External(nats) => std::mem::take(nats),
        Server::Child(program, listen) => {
            servers::start_nats(children, host, program, *listen, data, &keys).await?
        }
    };
    let applied = provision(&nats, &keys, plan.limits, &plan.resources).await?;
    let mut endpoints = plan.endpoints(nats, &keys)?;
    let settings = ServiceSettings::new(&StackSettings {
        endpoints: &endpoints,
        keys: &keys,
        secrets,
        trivy: &plan.trivy,
        trivy_folder: &data.join("trivy"),
        public_url: plan.public_url.as_ref(),
        allow_plain_text: plan.allow_plain_text,
    });
    drop((plan.tokens, plan.api));
    // The registry serves no request without a token, so the token issuer starts first.
    settings.start_gateway(host).await?;
    if let Server::Child(program, listener) = plan.registry {
        let listen = address_of(&listener)?;
        let gateway = reachable(&endpoints.tokens);
        let public = plan.public_url.as_ref().map(Url::as_str);
        let config =
            servers::registry_config(listen, data, public.unwrap_or(&gateway), &gateway, &keys)?;
        drop(listener);
        servers::start_registry(children, host, &program, listen, data, &config).await?;
    }
    settings.start_stages(host).await?;
    let health = std::fs::read_to_string(data.join("health.address"))
        .context("failed to read the address of the health endpoint")?;
    endpoints.health = format!("http://{health}");
    let json = serde_json::to_string_pretty(&endpoints)?;
    write_private_file(&Endpoints::file(data.path()), &json)?;
    Ok((endpoints, applied))
}

/// Provisions the bus, with the consumers of subscribers, and applies the resources.
async fn provision(
    nats: &NatsEndpoint,
    keys: &KeyFolder,
    limits: StreamLimits,
    files: &[ResourceFile],
) -> anyhow::Result<Vec<AppliedFile>> {
    let bus = Bus::connect(&nats.settings(), "up").await?;
    let options = ProvisionOptions {
        limits,
        ..Default::default()
    };
    bus.provision(options).await?;
    for subscriber in keys.subscribers()? {
        bus.add_subscriber(&subscriber).await?;
    }
    let mut applied = Vec::new();
    for ResourceFile { path, documents } in files {
        let resources = resources::apply(&bus, path, documents).await?;
        applied.push(AppliedFile {
            path: path.clone(),
            count: resources.len(),
            changed: resources.iter().filter(|one| one.is_changed).count(),
        });
    }
    Ok(applied)
}
