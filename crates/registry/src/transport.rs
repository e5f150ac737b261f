//! How requests reach a registry: over the wire, or through what a simulation puts in its place.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use reqwest::{Request, RequestBuilder, Response};

use crate::tally::Tally;

/// What a registry will answer.
pub type Exchanged<'a> = Pin<Box<dyn Future<Output = reqwest::Result<Response>> + Send + 'a>>;

/// A registry that is not reached over the wire.
pub trait Exchange: Debug + Send + Sync + 'static {
    /// Answers a request.
    fn exchange(&self, request: Request) -> Exchanged<'_>;

    /// Returns what requests are made with; nothing is sent with it.
    fn maker(&self) -> reqwest::Client;
}

/// How requests reach registries; the wire by default.
#[derive(Debug, Clone, Default)]
pub struct Transport {
    exchange: Option<Arc<dyn Exchange>>,
    tally: Option<Arc<Tally>>,
}

impl Transport {
    /// Makes a transport that leads to registries of a simulation.
    #[must_use]
    pub fn supplied(exchange: Arc<dyn Exchange>) -> Self {
        Self {
            exchange: Some(exchange),
            tally: None,
        }
    }

    /// Counts what is sent, tries that are repeated among it.
    #[must_use]
    pub fn counted(mut self, tally: Arc<Tally>) -> Self {
        self.tally = Some(tally);
        self
    }

    pub(crate) fn maker(&self) -> Option<reqwest::Client> {
        self.exchange.as_ref().map(|exchange| exchange.maker())
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> reqwest::Result<Response> {
        let (http, request) = request.build_split();
        let request = request?;
        if let Some(tally) = &self.tally {
            tally.note(request.method(), request.url().path());
        }
        match &self.exchange {
            None => http.execute(request).await,
            Some(exchange) => exchange.exchange(request).await,
        }
    }
}
