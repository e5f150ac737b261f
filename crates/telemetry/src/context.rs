//! Trace context in message headers: writing and reading it.

use opentelemetry::global;
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::TraceContextExt as _;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The header and attribute with the ids of a trace and a span.
pub const TRACEPARENT: &str = "traceparent";

/// Writes headers through a function.
struct HeaderInjector<'a>(&'a mut dyn FnMut(&str, String));

impl Injector for HeaderInjector<'_> {
    fn set(&mut self, key: &str, value: String) {
        (self.0)(key, value);
    }
}

/// Reads headers through a function.
struct HeaderExtractor<'a>(&'a dyn Fn(&str) -> Option<&'a str>);

impl Extractor for HeaderExtractor<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (self.0)(key)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, "tracestate"]
    }
}

/// Writes the context of the current span through `set`.
pub fn inject(set: &mut dyn FnMut(&str, String)) {
    let context = Span::current().context();
    global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut HeaderInjector(set));
    });
}

/// Returns the `traceparent` (W3C Trace Context) of the current span, if it is part of a trace.
#[must_use]
pub fn traceparent() -> Option<String> {
    let mut found = None;
    inject(&mut |name, value| {
        if name == TRACEPARENT {
            found = Some(value);
        }
    });
    found
}

/// Makes the span, not yet entered, a child of the context that `get` reads.
pub fn set_parent<'a>(span: &Span, get: &'a dyn Fn(&str) -> Option<&'a str>) {
    let context =
        global::get_text_map_propagator(|propagator| propagator.extract(&HeaderExtractor(get)));
    // A span that is filtered out takes no parent, which is not a failure.
    span.set_parent(context).ok();
}

/// Links the span to the context that `get` reads, without becoming its child.
pub fn link<'a>(span: &Span, get: &'a dyn Fn(&str) -> Option<&'a str>) {
    let context =
        global::get_text_map_propagator(|propagator| propagator.extract(&HeaderExtractor(get)));
    let remote = context.span().span_context().clone();
    if remote.is_valid() {
        span.add_link(remote);
    }
}
