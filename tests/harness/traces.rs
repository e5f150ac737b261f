//! An OTLP/HTTP receiver that keeps the spans it gets.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use prost::Message;
use tokio::runtime::Runtime;

/// The parts of `ExportTraceServiceRequest` that the tests read.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    text: String,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<WireSpan>,
}

#[derive(Clone, PartialEq, Message)]
struct WireSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
}

/// A span that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The service that sent it.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Its trace.
    pub trace: String,
}

/// A receiver.
#[derive(Debug)]
pub struct Traces {
    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is to be.
    pub endpoint: String,
    spans: Arc<Mutex<Vec<Span>>>,
    _runtime: Runtime,
}

async fn receive(State(spans): State<Arc<Mutex<Vec<Span>>>>, body: Bytes) {
    let request = Request::decode(body).unwrap();
    for resource in request.resources {
        let attributes = resource.resource.unwrap_or_default().attributes;
        let service = attributes
            .into_iter()
            .find(|attribute| attribute.key == "service.name");
        let service = service
            .and_then(|attribute| attribute.value)
            .unwrap_or_default()
            .text;
        for span in resource.scopes.into_iter().flat_map(|scope| scope.spans) {
            let trace = hex::encode(span.trace_id);
            spans.lock().unwrap().push(Span {
                service: service.clone(),
                name: span.name,
                trace,
            });
        }
    }
}

impl Traces {
    /// Starts one.
    pub fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let spans = Arc::new(Mutex::new(Vec::new()));
        let app = Router::new()
            .route("/v1/traces", post(receive))
            .with_state(spans.clone());
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            endpoint,
            spans,
            _runtime: runtime,
        }
    }

    /// Returns what arrived.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }
}
