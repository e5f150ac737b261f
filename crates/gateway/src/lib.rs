//! The gateway: REST API, token issuer of the internal registry, intake of its notifications.
//!
//! It must not work on images: it reads the state, and publishes events and commands.

mod api;
mod error;
mod handler;
mod notifications;
mod reconcile;
mod settings;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use sluice_bus::{ConsumeSettings, topology};
use sluice_service::{Host, listen, secret_file, serve};
use sluice_state::{StageRunner, TagWriter, internal_registry};

use crate::api::Api;
use crate::api::queue_metrics::report_queue_metrics;
use crate::handler::RegistryObserver;
use crate::notifications::intake::{self, Intake};
use crate::notifications::pulls::pull_queue;
use crate::tokens::Issuer;
use crate::tokens::accounts::Accounts;
use crate::tokens::signer::Signer;

pub use api::conflicts::find_conflicts;
#[doc(hidden)]
pub use notifications::decode::decode_events;
pub use settings::Settings;
pub use tokens::key_folder::{KeyFolder, NATS_ACCOUNTS_INCLUDE, NATS_PASSWORDS_FILE};

/// How long the comparison of a page of repositories may take.
const COMPARISON_TIMEOUT: Duration = Duration::from_secs(300);
/// How many messages are handled at a time, so that pushes do not wait for a comparison.
const CONCURRENCY: usize = 8;

/// Connects to the bus, and runs the listeners and the stage on the host.
pub async fn start(settings: Settings, host: &Host) -> anyhow::Result<()> {
    let tokens = settings.tokens;
    let signer = Signer::open(
        &tokens.key_file,
        &tokens.certificate_file,
        tokens.issuer,
        tokens.service,
        tokens.lifetime_seconds,
    )?;
    let secret = secret_file(&settings.notifications.secret_file)?;
    let listener = listen(tokens.listen, tokens.address_file.as_deref(), "tokens").await?;
    let mut registry = settings.registry;
    if registry.token_host.is_none() {
        // The registry refers this service too to its own token endpoint.
        registry.token_host = Some(listener.local_addr()?.to_string());
    }
    let registry = internal_registry(&registry)?;
    let stage = StageRunner::connect(&topology::GATEWAY, &settings.bus, host).await?;
    let (bus, state, catalog) = stage.connections();
    let observer = RegistryObserver {
        bus: bus.clone(),
        state: state.clone(),
        catalog: catalog.clone(),
        tags: TagWriter::new(state.clone(), catalog.clone(), registry.clone()),
        registry: registry.clone(),
    };
    let issuer = Issuer {
        catalog,
        accounts: Accounts::new(tokens.accounts_dir, settings.secrets.secrets()),
        signer,
    };
    let token = secret_file(&settings.api.token_file)?;
    let api = Api {
        bus: bus.clone(),
        state: state.clone(),
        stopping: host.stopping(),
    };
    let api = api::routes(api, token);
    let (pulls, publisher) = pull_queue(
        bus.clone(),
        state.clone(),
        settings.notifications.pulls_one_in,
    );
    host.spawn("pulls", publisher.run(host.stopping()));
    let intake = Intake::new(bus.clone(), state, registry.host().clone(), secret, pulls);
    let edge = registry_routes(issuer, intake);
    let (address, file) = (settings.api.listen, settings.api.address_file);
    let api_listener = listen(address, file.as_deref(), "the API").await?;
    let limits = settings.listeners;
    host.spawn(
        "api",
        serve(api_listener, api, limits.clone(), host.stopping()),
    );
    host.spawn("edge", serve(listener, edge, limits, host.stopping()));
    host.spawn("dead-letters", report_queue_metrics(bus, host.stopping()));
    let consume = ConsumeSettings {
        concurrency: CONCURRENCY,
        handler_timeout: COMPARISON_TIMEOUT,
    };
    stage.run(observer, consume);
    Ok(())
}

/// Returns the routes that the registry and its clients call: the token endpoint, and the intake of notifications.
fn registry_routes(issuer: Issuer, intake: Intake) -> Router {
    let tokens = Router::new()
        .route("/token", get(tokens::issue))
        .with_state(Arc::new(issuer));
    let notifications = Router::new()
        .route("/notifications", post(intake::receive))
        .with_state(Arc::new(intake));
    tokens.merge(notifications)
}
