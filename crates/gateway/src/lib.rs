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
mod pulls;
mod pushed_tags;
mod reconcile;
mod scope;
mod secret;
mod settings;
mod signer;
mod tokens;

use std::time::Duration;

use sluice_bus::{ConsumeSettings, topology};
use sluice_service::{Host, listen, secret_file, serve};
use sluice_state::{StageRunner, TagWriter, internal_registry};

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
/// How many messages are handled at once, so that pushes do not wait for a comparison.
const CONCURRENCY: usize = 8;

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
    let stage = StageRunner::connect(&topology::GATEWAY, &settings.bus, host).await?;
    let (bus, state, catalog) = stage.connections();
    let comparer = Comparer {
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
    };
    let api = api::routes(api, token);
    let (pulls, publisher) = pulls::pulls(
        bus.clone(),
        state.clone(),
        settings.notifications.pulls_one_in,
    );
    host.spawn("pulls", publisher.run(host.stopping()));
    let intake = Intake::new(bus.clone(), state, registry.host().clone(), secret, pulls);
    let edge = edge::routes(issuer, intake);
    let (address, file) = (settings.api.listen, settings.api.address_file);
    let api_listener = listen(address, file.as_deref(), "the API").await?;
    let limits = settings.listeners;
    host.spawn(
        "api",
        serve(api_listener, api, limits.clone(), host.stopping()),
    );
    host.spawn("edge", serve(listener, edge, limits, host.stopping()));
    host.spawn("dead-letters", count_dead_letters(bus, host.stopping()));
    let consume = ConsumeSettings {
        concurrency: CONCURRENCY,
        handler_timeout: COMPARISON,
    };
    stage.run(comparer, consume);
    Ok(())
}
