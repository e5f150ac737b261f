//! Detects a registry that speaks plain HTTP where TLS was expected, or the other way round.

use std::time::Duration;

use sluice_service::tls_error;

use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::http::connection::http_clients::HttpClients;
use crate::http::connection::transport::Transport;

/// The bodies with which servers answer plain HTTP on a TLS port: Go, nginx, Apache.
const PLAIN_HTTP_TO_TLS: [&str; 3] = [
    "HTTP request to an HTTPS server",
    "plain HTTP request was sent to HTTPS port",
    "speaking plain HTTP to an SSL-enabled server port",
];
/// How long the probe with TLS may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Turns a failed request into an error, and detects a registry that speaks the other protocol.
pub(crate) async fn explain_failure(
    endpoint: &Endpoint,
    clients: &HttpClients,
    transport: &Transport,
    (action, object): (&'static str, &str),
    error: reqwest::Error,
) -> Error {
    let is_mismatch = if is_https(endpoint) {
        matches!(tls_error(&error), Some(rustls::Error::InvalidMessage(_)))
    } else {
        !error.is_timeout()
            && !error.is_connect()
            && transport.simulated_client().is_none()
            && speaks_tls(endpoint, clients).await
    };
    if is_mismatch {
        return mismatch(endpoint, action, object);
    }
    Error::transport(action, object)(error)
}

/// Returns whether a body of status 400 says that plain HTTP was sent to a TLS port.
pub(crate) fn is_tls_required(endpoint: &Endpoint, body: &str) -> bool {
    !is_https(endpoint) && PLAIN_HTTP_TO_TLS.iter().any(|text| body.contains(text))
}

/// Returns the error of a registry that speaks the other protocol.
pub(crate) fn mismatch(endpoint: &Endpoint, action: &'static str, object: &str) -> Error {
    let registry = endpoint.host.clone();
    let reason = if is_https(endpoint) {
        format!(
            "speaks plain HTTP; use `--plain-http {registry}`, or `plain_http: true` in its Registry"
        )
    } else {
        "speaks TLS; remove `--plain-http`, or `plain_http: true` from its Registry".to_owned()
    };
    Error::WrongProtocol {
        action,
        object: object.to_owned(),
        registry,
        reason,
    }
}

fn is_https(endpoint: &Endpoint) -> bool {
    endpoint.base.scheme() == "https"
}

/// Tries TLS at the address that broke off a request without; the probe sends no credential.
async fn speaks_tls(endpoint: &Endpoint, clients: &HttpClients) -> bool {
    let mut url = endpoint.base.clone();
    let port = url.port_or_known_default();
    if url.set_scheme("https").is_err() || url.set_port(port).is_err() {
        return false;
    }
    let request = clients.registry.head(url).timeout(PROBE_TIMEOUT);
    match request.send().await {
        Ok(_) => true,
        Err(error) => tls_error(&error)
            .is_some_and(|fault| !matches!(fault, rustls::Error::InvalidMessage(_))),
    }
}
