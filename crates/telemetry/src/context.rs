//! Trace context in message headers: writing and reading it, and links to traces.

use std::str::FromStr;

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

/// Returns the id of the trace of a `traceparent`: 32 hexadecimal digits.
#[must_use]
pub fn trace_id(traceparent: &str) -> Option<&str> {
    let id = traceparent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// The URL of a trace in the tracing UI, with `{trace}` in the place of the trace's id; empty for no links.
#[derive(Debug, Clone, Default)]
pub struct TraceUrl(String);

impl FromStr for TraceUrl {
    type Err = anyhow::Error;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        let is_web = url.starts_with("http://") || url.starts_with("https://");
        anyhow::ensure!(
            url.is_empty() || is_web && url.contains("{trace}"),
            "`{url}` is not the URL of a trace; write `{{trace}}` where its id goes, as in \
             `https://jaeger.example/trace/{{trace}}`"
        );
        Ok(Self(url.to_owned()))
    }
}

impl TraceUrl {
    /// Returns the link to a trace, by the id of the trace.
    #[must_use]
    pub fn link(&self, trace_id: &str) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.replace("{trace}", trace_id))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_the_id_of_the_trace_and_without_a_url_there_is_none() {
        let trace = trace_id("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        let url: TraceUrl = "https://jaeger.example/trace/{trace}".parse().unwrap();
        let link = "https://jaeger.example/trace/4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(url.link(trace).as_deref(), Some(link));
        assert_eq!("".parse::<TraceUrl>().unwrap().link(trace), None);
    }

    #[test]
    fn a_url_without_a_place_for_the_id_is_refused() {
        for url in ["https://jaeger.example/trace/", "jaeger.example/{trace}"] {
            let error = url.parse::<TraceUrl>().unwrap_err().to_string();
            assert!(
                error.contains(url) && error.contains("`{trace}`"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_no_traceparent_has_no_trace() {
        for text in ["", "00", "00-4bf9-00f067aa0ba902b7-01"] {
            assert_eq!(trace_id(text), None, "{text}");
        }
    }
}
