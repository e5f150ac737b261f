//! Logs, traces, metrics, and trace context in headers.
//!
//! The only crate that names opentelemetry.

pub mod context;
pub mod metrics;
pub mod span;
pub mod terminal;

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::terminal::{Breaks, EscapingWriter};

/// How long the export of the last spans may take.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);

/// The filter without `RUST_LOG`; `sluice` is a prefix that matches every crate of this workspace.
const DEFAULT_FILTER: &str = "warn,sluice=info";

/// Keeps telemetry alive until it is shut down.
#[derive(Debug)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

/// Starts logs on stderr and, where an OTLP endpoint is configured in the environment, traces over HTTP.
///
/// # Errors
/// A `RUST_LOG` or an endpoint that is not valid, or telemetry that was already started.
pub fn init(service: &str, version: &str) -> anyhow::Result<Telemetry> {
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    let filter = filter(variable("RUST_LOG").as_deref())?;
    let provider = if otlp_configured() {
        let exporter = SpanExporter::builder()
            .with_http()
            .build()
            .context("failed to create the OTLP exporter")?;
        Some(provider(service, version, exporter))
    } else {
        None
    };
    let json = !stderr().is_terminal();
    let escaped = || EscapingWriter::new(stderr(), Breaks::Indent);
    subscriber(provider.as_ref(), filter, json, escaped)
        .try_init()
        .context("telemetry was already started")?;
    Ok(Telemetry { provider })
}

#[expect(clippy::disallowed_methods, reason = "logs are written escaped")]
fn stderr() -> std::io::Stderr {
    std::io::stderr()
}

impl Telemetry {
    /// Exports the remaining spans, within a short limit.
    pub async fn shutdown(self) {
        let Some(provider) = self.provider else {
            return;
        };
        // The shutdown blocks; on a worker thread of the runtime it would wait for itself.
        let flush = move || provider.shutdown_with_timeout(FLUSH_LIMIT);
        match tokio::task::spawn_blocking(flush).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans were not exported"),
            Err(error) => tracing::warn!(%error, "the last spans were not exported"),
        }
    }
}

/// Makes the subscriber. Only spans of this workspace are exported, so that the requests of the exporter are not traced.
fn subscriber<W>(
    provider: Option<&SdkTracerProvider>,
    filter: EnvFilter,
    json: bool,
    writer: W,
) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let exported = Targets::new()
        .with_target("sluice", LevelFilter::INFO)
        .with_target(span::TASK_TARGET, LevelFilter::OFF);
    let traces = provider.map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("sluice"))
            .with_filter(exported)
    });
    // The escaping writer would escape colours too.
    let logs = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(writer);
    let logs = if json {
        logs.json().boxed()
    } else {
        logs.boxed()
    };
    tracing_subscriber::registry()
        .with(traces)
        .with(logs.with_filter(filter))
}

fn filter(wanted: Option<&str>) -> anyhow::Result<EnvFilter> {
    EnvFilter::builder()
        .parse(wanted.unwrap_or(DEFAULT_FILTER))
        .context("`RUST_LOG` is not valid; write for example `info,sluice_bus=debug`")
}

fn otlp_configured() -> bool {
    [
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ]
    .iter()
    .any(|name| variable(name).is_some())
}

/// Reads a variable; an empty one counts as absent.
#[expect(
    clippy::disallowed_methods,
    reason = "`RUST_LOG` and the exporter's variables are conventions of their libraries, not settings of Sluice"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn provider(service: &str, version: &str, exporter: SpanExporter) -> SdkTracerProvider {
    let resource = Resource::builder()
        .with_service_name(service.to_owned())
        .with_attribute(KeyValue::new("service.version", version.to_owned()))
        .build();
    SdkTracerProvider::builder()
        .with_resource(resource)
        .with_batch_exporter(exporter)
        .build()
}

#[cfg(test)]
mod tests;
