//! `/healthz`, `/readyz` and `/metrics`.

use std::path::Path;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use sluice_telemetry::metrics;
use tokio::net::TcpListener;

use crate::host::Host;
use crate::settings::HttpSettings;

/// Binds the listener; the future that is returned serves for as long as it is polled.
pub(crate) async fn serve(
    settings: &HttpSettings,
    host: Host,
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
    tracing::info!(service = host.service(), listen = %address, "health is served");
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics))
        .with_state(host);
    Ok(async move {
        axum::serve(listener, app)
            .await
            .context("the health endpoint failed")
    })
}

async fn readiness(State(host): State<Host>) -> (StatusCode, String) {
    let waits_for = host.waits_for();
    if host.stopping().is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned())
    } else if waits_for.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        let told = format!("waiting for {}\n", waits_for.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, told)
    }
}

async fn metrics() -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render())
}

/// Writes the address beside its place first, so that nobody reads half of it.
fn write_address(file: &Path, address: &str) -> anyhow::Result<()> {
    let partial = file.with_extension("partial");
    std::fs::write(&partial, address)
        .and_then(|()| std::fs::rename(&partial, file))
        .with_context(|| format!("failed to write the address to `{}`", file.display()))
}
