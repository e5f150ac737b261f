//! How requests reach a registry: over the network, or through a simulation.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use reqwest::{Request, RequestBuilder, Response};

use crate::http::connection::request_counter::RequestCounter;

/// The future response of a [`SimulatedRegistry`].
pub type SimulatedResponse<'a> =
    Pin<Box<dyn Future<Output = reqwest::Result<Response>> + Send + 'a>>;

/// A registry in the same process, for simulations.
pub trait SimulatedRegistry: Debug + Send + Sync + 'static {
    /// Answers a request.
    fn respond(&self, request: Request) -> SimulatedResponse<'_>;

    /// Returns the client that builds requests; nothing is sent with it.
    fn request_builder(&self) -> reqwest::Client;
}

/// How requests reach registries; over the network by default.
#[derive(Debug, Clone, Default)]
pub struct Transport {
    simulated: Option<Arc<dyn SimulatedRegistry>>,
    counter: Option<Arc<RequestCounter>>,
}

impl Transport {
    /// Returns a transport to simulated registries.
    #[must_use]
    pub fn simulated(registry: Arc<dyn SimulatedRegistry>) -> Self {
        Self {
            simulated: Some(registry),
            counter: None,
        }
    }

    /// Counts the requests, retries included.
    #[must_use]
    pub fn with_counter(mut self, counter: Arc<RequestCounter>) -> Self {
        self.counter = Some(counter);
        self
    }

    /// Returns the client that builds requests to simulated registries.
    pub(crate) fn simulated_client(&self) -> Option<reqwest::Client> {
        let registry = self.simulated.as_ref();
        registry.map(|registry| registry.request_builder())
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> reqwest::Result<Response> {
        let (client, request) = request.build_split();
        let request = request?;
        if let Some(counter) = &self.counter {
            counter.count(request.method(), request.url().path());
        }
        match &self.simulated {
            None => client.execute(request).await,
            Some(registry) => registry.respond(request).await,
        }
    }
}
