//! The gateway: the HTTP edge. REST API, token issuer of the internal registry, intake of its notifications.
//!
//! It must not work on images: it reads state, publishes facts and commands.

mod accounts;
mod api;
mod edge;
mod grants;
mod intake;
pub mod keys;
mod notifications;
mod reconcile;
mod scope;
mod secret;
mod settings;
mod signer;
mod tokens;

use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use sluice_bus::{Bus, ConsumeSettings, topology};
use sluice_service::{Host, listen, secret_file};
use sluice_state::reconcile::keep_complete;
use sluice_state::{attach, internal_registry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::accounts::Accounts;
use crate::api::Api;
use crate::intake::Intake;
use crate::reconcile::{Comparer, count_dead_letters};
use crate::signer::Signer;
use crate::tokens::Issuer;

#[doc(hidden)]
pub use notifications::facts_of;
pub use settings::Settings;

/// How long a page of repositories may take to be compared with the registry.
const COMPARISON: Duration = Duration::from_secs(300);

/// Connects, and serves on the host.
///
/// # Errors
/// A bus that cannot be reached or is not provisioned, a secret that cannot be read, or an address that is taken.
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
        // The registry sends this service, too, to the tokens that it issues itself.
        registry.token_host = Some(listener.local_addr()?.to_string());
    }
    let registry = internal_registry(&registry)?;
    let (bus, state, catalog) = attach(&settings.bus, "gateway", host).await?;
    let comparer = Comparer {
        bus: bus.clone(),
        state: state.clone(),
        catalog: catalog.clone(),
        registry: registry.clone(),
    };
    let issuer = Issuer {
        catalog,
        accounts: Accounts::new(tokens.accounts_dir),
        signer,
    };
    let token = settings.api.token_file.as_deref().map(secret_file);
    let api = Api {
        bus: bus.clone(),
        state: state.clone(),
    };
    let api = api::routes(api, token.transpose()?);
    let intake = Intake::new(bus.clone(), state, registry.host().clone(), secret);
    let edge = edge::routes(issuer, intake);
    let (address, file) = (settings.api.listen, settings.api.address_file);
    let api_listener = listen(address, file.as_deref(), "the API").await?;
    host.spawn("api", serve(api_listener, api, host.stopping()));
    host.spawn("edge", serve(listener, edge, host.stopping()));
    compare(bus, comparer, host);
    Ok(())
}

/// Works through the messages of the gateway, and tells of those of all stages that could not be done.
fn compare(bus: Bus, comparer: Comparer, host: &Host) {
    host.spawn(
        "reconcile",
        keep_complete(bus.clone(), &topology::GATEWAY, host.stopping()),
    );
    host.spawn(
        "dead-letters",
        count_dead_letters(bus.clone(), host.stopping()),
    );
    let consume = ConsumeSettings {
        concurrency: 1,
        handler_timeout: COMPARISON,
    };
    let stopping = host.stopping();
    host.spawn("comparer", async move {
        Ok(bus
            .consume(&topology::GATEWAY, comparer, consume, stopping)
            .await?)
    });
}

async fn serve(
    listener: TcpListener,
    routes: Router,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    axum::serve(listener, routes)
        .with_graceful_shutdown(stopping.cancelled_owned())
        .await
        .context("a listener failed")
}
