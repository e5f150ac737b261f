//! Whether a registry speaks HTTP where TLS was expected, or the other way round, and what to do about it.

use std::time::Duration;

use sluice_service::tls_error;

use crate::client::Client;
use crate::error::Error;

/// How servers answer HTTP at a port for TLS: those in Go, nginx, Apache.
pub(crate) const SPEAKS_TLS: [&str; 3] = [
    "HTTP request to an HTTPS server",
    "plain HTTP request was sent to HTTPS port",
    "speaking plain HTTP to an SSL-enabled server port",
];
/// How long it may take to find out.
const PROBE: Duration = Duration::from_secs(5);

impl Client {
    /// Says why a request was not answered.
    pub(crate) async fn unreached(
        &self,
        action: &'static str,
        what: &str,
        error: reqwest::Error,
    ) -> Error {
        let is_wrong = if self.shared.endpoint.base.scheme() == "https" {
            matches!(tls_error(&error), Some(rustls::Error::InvalidMessage(_)))
        } else {
            !error.is_timeout() && !error.is_connect() && self.speaks_tls().await
        };
        if is_wrong {
            return self.wrong_protocol(action, what);
        }
        Error::transport(action, what)(error)
    }

    /// Makes the error of a registry that speaks the other protocol.
    pub(crate) fn wrong_protocol(&self, action: &'static str, what: &str) -> Error {
        let registry = self.host().clone();
        let reason = if self.shared.endpoint.base.scheme() == "https" {
            format!(
                "speaks plain HTTP; use `--plain-http {registry}`, or `plain_http: true` in its Registry"
            )
        } else {
            "speaks TLS; remove `--plain-http`, or `plain_http: true` from its Registry".to_owned()
        };
        Error::WrongProtocol {
            action,
            what: what.to_owned(),
            registry,
            reason,
        }
    }

    /// Tries TLS at the address that broke off a request without; nothing but the address is told.
    async fn speaks_tls(&self) -> bool {
        let mut url = self.shared.endpoint.base.clone();
        let port = url.port_or_known_default();
        let is_made = url.set_scheme("https").is_ok() && url.set_port(port).is_ok();
        if !is_made || self.shared.transport.maker().is_some() {
            return false;
        }
        let request = self.shared.wires.http.head(url).timeout(PROBE);
        match request.send().await {
            Ok(_) => true,
            Err(error) => tls_error(&error)
                .is_some_and(|fault| !matches!(fault, rustls::Error::InvalidMessage(_))),
        }
    }
}
