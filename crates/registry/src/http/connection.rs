//! The connection to one registry: HTTP clients, transport, throttle, budget and the last reported rate limit.

pub(crate) mod http_clients;
pub(crate) mod protocol_mismatch;
mod proxy;
pub(crate) mod redirect_policy;
pub(crate) mod request_counter;
pub(crate) mod transport;

use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, Response};
use sluice_domain::RegistryHost;
use url::Url;

use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::http::rate_limit::RateLimit;
use crate::http::rate_limit::budget::AccountBudget;
use crate::http::rate_limit::throttle::Throttle;

use self::http_clients::HttpClients;
use self::protocol_mismatch::explain_failure;
use self::transport::Transport;

/// The connection to one registry; it knows nothing of authentication.
pub(crate) struct Connection {
    pub(crate) endpoint: Endpoint,
    pub(crate) clients: HttpClients,
    pub(crate) transport: Transport,
    /// Shared by all connections of the process to the registry.
    pub(crate) throttle: Arc<Throttle>,
    pub(crate) budget: AccountBudget,
    last_rate_limit: Mutex<Option<RateLimit>>,
}

impl Connection {
    pub(crate) fn new(
        endpoint: Endpoint,
        transport: Transport,
        throttle: Arc<Throttle>,
        budget: AccountBudget,
    ) -> Result<Self, Error> {
        let clients = match transport.simulated_client() {
            Some(client) => HttpClients::simulated(client),
            None => HttpClients::new(&endpoint)?,
        };
        Ok(Self {
            endpoint,
            clients,
            transport,
            throttle,
            budget,
            last_rate_limit: Mutex::default(),
        })
    }

    pub(crate) fn host(&self) -> &RegistryHost {
        &self.endpoint.host
    }

    /// Returns the URL of a path below `/v2/`.
    pub(crate) fn url(&self, path: &str) -> Result<Url, Error> {
        let url = self.endpoint.base.join(&format!("/v2/{path}"));
        url.map_err(|_| Error::untrusted(path, "it makes no URL"))
    }

    /// Returns whether a URL is on the origin of the registry.
    pub(crate) fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.base.origin()
    }

    /// Sends a request to the registry once.
    pub(crate) async fn send(
        &self,
        action: &'static str,
        object: &str,
        request: RequestBuilder,
    ) -> Result<Response, Error> {
        match self.transport.send(request).await {
            Ok(response) => {
                self.record_rate_limit(response.headers());
                Ok(response)
            }
            Err(error) => Err(explain_failure(
                &self.endpoint,
                &self.clients,
                &self.transport,
                (action, object),
                error,
            )
            .await),
        }
    }

    /// Sends a request to the target of a redirect, if the redirect policy allows its address.
    pub(crate) async fn send_to_redirect(
        &self,
        action: &'static str,
        object: &str,
        (url, request): (&Url, RequestBuilder),
    ) -> Result<Response, Error> {
        let guard = self.clients.redirect_scope.guard();
        guard
            .check_url(url)
            .map_err(|error| Error::untrusted(object, error.to_string()))?;
        let response = self.transport.send(request).await;
        response.map_err(Error::transport(action, object))
    }

    /// Records the address of the registry, which decides to which networks it may redirect.
    pub(crate) async fn record_address(&self, response: &Response) {
        let scope = &self.clients.redirect_scope;
        if self.endpoint.proxy.is_none() {
            if let Some(peer) = response.remote_addr() {
                scope.note(peer.ip());
            }
            return;
        }
        // The peer may be the proxy, so the name of the registry is resolved.
        let base = &self.endpoint.base;
        let host = base.host_str().zip(base.port_or_known_default());
        if let Some((host, port)) = host
            && let Ok(mut addresses) =
                tokio::net::lookup_host((host.trim_matches(['[', ']']), port)).await
            && let Some(address) = addresses.next()
        {
            scope.note(address.ip());
        }
    }

    /// Returns the rate limit that the registry reported last, if it has one.
    pub(crate) fn last_rate_limit(&self) -> Option<RateLimit> {
        let last = self.last_rate_limit.lock();
        *last.unwrap_or_else(PoisonError::into_inner)
    }

    fn record_rate_limit(&self, headers: &HeaderMap) {
        if let Some(limit) = RateLimit::read(headers) {
            let last = self.last_rate_limit.lock();
            *last.unwrap_or_else(PoisonError::into_inner) = Some(limit);
        }
    }
}
