//! `/healthz`, `/readyz` and `/metrics`.

use std::path::Path;

use anyhow::Context as _;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::settings::HttpSettings;

/// Binds the listener and serves until the process has drained.
pub(crate) async fn serve(
    settings: &HttpSettings,
    service: &'static str,
    stopping: CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + use<>> {
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("failed to listen on `{}` for health", settings.listen))?;
    let address = listener
        .local_addr()
        .context("the listener has no address")?;
    if let Some(file) = &settings.address_file {
        write_address(file, &address.to_string())?;
    }
    tracing::info!(service, listen = %address, "health is served");
    let ready = stopping.clone();
    let readiness = move || async move {
        if ready.is_cancelled() {
            (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
        } else {
            (StatusCode::OK, "ready\n")
        }
    };
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .route(
            "/metrics",
            get(|| async { sluice_telemetry::metrics::render() }),
        );
    Ok(async move {
        let stopped = async move { stopping.cancelled().await };
        axum::serve(listener, app)
            .with_graceful_shutdown(stopped)
            .await
            .context("the health endpoint failed")
    })
}

/// Writes the address beside its place first, so that nobody reads half of it.
fn write_address(file: &Path, address: &str) -> anyhow::Result<()> {
    let partial = file.with_extension("partial");
    std::fs::write(&partial, address)
        .and_then(|()| std::fs::rename(&partial, file))
        .with_context(|| format!("failed to write the address to `{}`", file.display()))
}
