//! The gateway: the HTTP edge. REST API, token issuer of the internal registry, intake of its notifications.
//!
//! It must not work on images: it reads state, publishes facts and commands.

mod accounts;
mod edge;
mod grants;
pub mod keys;
mod scope;
mod secret;
mod settings;
mod signer;
mod tokens;

use anyhow::Context as _;
use axum::Router;
use sluice_service::{Host, listen};
use sluice_state::attach;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::accounts::Accounts;
use crate::signer::Signer;
use crate::tokens::Issuer;

pub use settings::Settings;

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
    let (_bus, _state, catalog) = attach(&settings.bus, "gateway", host).await?;
    let edge = edge::routes(Issuer {
        catalog,
        accounts: Accounts::new(tokens.accounts_dir),
        signer,
    });
    let listener = listen(tokens.listen, tokens.address_file.as_deref(), "tokens").await?;
    host.spawn("edge", serve(listener, edge, host.stopping()));
    Ok(())
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
