//! Spans arrive at an OTLP receiver in the trace of their headers; logs name their service and task.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span as Exported;
use prost::Message as _;
use tracing::Span;

use super::*;

const REMOTE_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const REMOTE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

type Requests = Arc<Mutex<Vec<ExportTraceServiceRequest>>>;

#[derive(Default)]
struct Received {
    resource: BTreeMap<String, String>,
    spans: BTreeMap<String, Exported>,
}

async fn receive(State(requests): State<Requests>, body: Bytes) {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    requests.lock().unwrap().push(request);
}

/// Runs `work` under a subscriber that exports, and returns what the receiver got.
async fn exported(work: impl FnOnce() + Send + 'static) -> Received {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let requests = Requests::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
    let app = Router::new()
        .route("/v1/traces", post(receive))
        .with_state(requests.clone());
    let mut server = tokio::task::JoinSet::new();
    server.spawn(async move { axum::serve(listener, app).await.unwrap() });
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(endpoint)
        .build()
        .unwrap();
    let provider = provider("sluice-sample", "1.2.3", exporter);
    let subscriber = subscriber(
        Some(&provider),
        filter(None).unwrap(),
        true,
        std::io::sink as fn() -> std::io::Sink,
    );
    tokio::task::spawn_blocking(move || tracing::subscriber::with_default(subscriber, work))
        .await
        .unwrap();
    let telemetry = Telemetry {
        provider: Some(provider),
    };
    telemetry.shutdown().await;
    let mut received = Received::default();
    for resource in requests
        .lock()
        .unwrap()
        .drain(..)
        .flat_map(|r| r.resource_spans)
    {
        for attribute in resource.resource.unwrap().attributes {
            if let Some(Value::StringValue(text)) = attribute.value.unwrap().value {
                received.resource.insert(attribute.key, text);
            }
        }
        for span in resource
            .scope_spans
            .into_iter()
            .flat_map(|scope| scope.spans)
        {
            received.spans.insert(span.name.clone(), span);
        }
    }
    received
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stage(name: &str) -> Span {
    tracing::info_span!(target: "sluice_bus", "stage", otel.name = name)
}

fn headers_of(span: &Span) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    span.in_scope(|| {
        context::inject(&mut |name, value| {
            headers.insert(name.to_owned(), value);
        });
    });
    headers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_continues_the_trace_of_the_headers_it_came_with() {
    let received = exported(|| {
        let poll = stage("poll");
        context::set_parent(&poll, &|name| (name == "traceparent").then_some(REMOTE));
        let sent = headers_of(&poll);
        let mirror = stage("mirror");
        context::set_parent(&mirror, &|name| sent.get(name).map(String::as_str));
        mirror.in_scope(|| {});
    })
    .await;
    let (poll, mirror) = (&received.spans["poll"], &received.spans["mirror"]);
    assert_eq!(hex(&poll.trace_id), REMOTE_TRACE);
    assert_eq!(hex(&poll.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(mirror.trace_id, poll.trace_id);
    assert_eq!(mirror.parent_span_id, poll.span_id);
    assert_eq!(received.resource["service.name"], "sluice-sample");
    assert_eq!(received.resource["service.version"], "1.2.3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_begins_a_new_trace_and_names_the_old_one() {
    let received = exported(|| {
        let tick = stage("tick");
        context::link(&tick, &|name| (name == "traceparent").then_some(REMOTE));
        tick.in_scope(|| {});
    })
    .await;
    let tick = &received.spans["tick"];
    assert_ne!(hex(&tick.trace_id), REMOTE_TRACE);
    assert!(tick.parent_span_id.is_empty());
    assert_eq!(hex(&tick.links[0].trace_id), REMOTE_TRACE);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_are_no_context_begin_a_new_trace() {
    let received = exported(|| {
        for (name, text) in [("absent", None), ("foreign", Some("00-zz-1"))] {
            let span = stage(name);
            context::set_parent(&span, &|_| text);
            context::link(&span, &|_| text);
            span.in_scope(|| {});
        }
    })
    .await;
    for name in ["absent", "foreign"] {
        let span = &received.spans[name];
        assert!(span.parent_span_id.is_empty() && span.links.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_and_other_libraries_are_in_no_trace() {
    let received = exported(|| {
        let task = span::task("poller", "schedules");
        let foreign = tracing::info_span!(target: "hyper", "request");
        let noise = tracing::debug_span!(target: "sluice_bus", "detail");
        let inside = task.in_scope(|| foreign.in_scope(|| noise.in_scope(|| stage("work"))));
        inside.in_scope(|| {});
    })
    .await;
    assert_eq!(received.spans.keys().collect::<Vec<_>>(), ["work"]);
    assert!(received.spans["work"].parent_span_id.is_empty());
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn logged(wanted: Option<&str>, work: impl FnOnce()) -> Vec<serde_json::Value> {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = subscriber(None, filter(wanted).unwrap(), true, move || writer.clone());
    tracing::subscriber::with_default(subscriber, work);
    log.lines()
}

#[test]
fn lines_of_a_task_name_the_service_and_the_task() {
    let lines = logged(None, || {
        span::task("poller", "schedules").in_scope(|| {
            tracing::info!(target: "sluice_poller", "working");
        });
    });
    assert_eq!(lines[0]["span"]["service"], "poller");
    assert_eq!(lines[0]["span"]["task"], "schedules");
}

#[test]
fn ours_is_shown_from_info_and_the_rest_from_warn_unless_told_otherwise() {
    let speak = || {
        tracing::info!(target: "sluice_state::tags", "ours");
        tracing::debug!(target: "sluice_state::tags", "detail of ours");
        tracing::info!(target: "async_nats", "theirs");
        tracing::warn!(target: "async_nats", "warning of theirs");
    };
    let told = |wanted| -> Vec<_> {
        let lines = logged(wanted, speak);
        lines
            .into_iter()
            .map(|line| line["fields"]["message"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(told(None), ["ours", "warning of theirs"]);
    assert_eq!(
        told(Some("off,sluice_state=debug")),
        ["ours", "detail of ours"]
    );
}

#[test]
fn a_filter_that_is_not_valid_is_named() {
    let error = filter(Some("sluice=loud")).unwrap_err();
    assert!(error.to_string().contains("`RUST_LOG`"), "{error}");
}
