//! `/healthz`, `/readyz` and `/metrics`.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use sluice_telemetry::metrics;
use tokio_util::sync::CancellationToken;

use super::host::Host;
use crate::serve::client_network::ServeSettings;
use crate::serve::listen::listen;
use crate::serve::serve;
use crate::settings::HttpSettings;

/// Binds the listener; the future that is returned serves for as long as it is polled.
pub(crate) async fn start(
    settings: &HttpSettings,
    host: Host,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + use<>> {
    let listener = listen(settings.listen, settings.address_file.as_deref(), "health").await?;
    let app = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics))
        .with_state(host);
    Ok(async move {
        // Health is served to the end of the process, so that a drain can be watched.
        let stopping = CancellationToken::new();
        serve(listener, app, ServeSettings::default(), stopping).await
    })
}

async fn readiness(State(host): State<Host>) -> (StatusCode, String) {
    let waits_for = host.waits_for();
    if host.stopping().is_cancelled() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned())
    } else if waits_for.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        let body = format!("waiting for {}\n", waits_for.join(", "));
        (StatusCode::SERVICE_UNAVAILABLE, body)
    }
}

async fn metrics() -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render())
}
