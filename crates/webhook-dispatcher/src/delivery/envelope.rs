//! The body of a delivery in the format of the webhook, with its media type.

use chrono::SecondsFormat;
use serde_json::{Value, json};
use sluice_domain::resources::Format;
use sluice_events::Event;
use sluice_events::commands::DeliverEvent;
use sluice_telemetry::context::{TRACEPARENT, TraceUrl, trace_id, traceparent};

/// The body of a request.
#[derive(Debug)]
pub(crate) struct Body {
    /// The media type.
    pub(crate) content_type: &'static str,
    /// The bytes, which the signature covers.
    pub(crate) bytes: Vec<u8>,
}

/// Returns the body of a delivery in the format of its webhook.
pub(crate) fn body(
    format: Format,
    command: &DeliverEvent,
    event: &Event,
    correlation: &str,
    trace_url: &TraceUrl,
) -> Body {
    match format {
        Format::Cloudevents => Body {
            content_type: "application/cloudevents+json",
            bytes: cloud_event(command, event, correlation, trace_url)
                .to_string()
                .into_bytes(),
        },
    }
}

/// Returns an event of CloudEvents 1.0 in structured JSON; id, source, type and time are those of the event in the stream.
fn cloud_event(
    command: &DeliverEvent,
    event: &Event,
    correlation: &str,
    trace_url: &TraceUrl,
) -> Value {
    let source = if command.event_source.is_empty() {
        "/sluice"
    } else {
        &command.event_source
    };
    let mut body = json!({
        "specversion": "1.0",
        "id": command.event_id,
        "source": source,
        "type": event.type_name(),
        "time": command.event_time.to_rfc3339_opts(SecondsFormat::Millis, true),
        "subject": event.subject(),
        "datacontenttype": "application/json",
        "eventname": event.name(),
        "correlationid": correlation,
        "data": event.to_json(),
    });
    // The extension for distributed tracing; without a trace there is none.
    if let (Some(trace), Some(body)) = (traceparent(), body.as_object_mut()) {
        if let Some(link) = trace_id(&trace).and_then(|id| trace_url.link(id)) {
            body.insert("traceurl".to_owned(), link.into());
        }
        body.insert(TRACEPARENT.to_owned(), trace.into());
    }
    body
}

#[cfg(test)]
mod tests {
    use sluice_events::EventId;
    use sluice_events::facts::ResourceApplied;

    use super::*;

    #[test]
    fn a_body_has_what_cloud_events_asks_for() {
        let event: Event = ResourceApplied {
            kind: "Mirror".to_owned(),
            name: "alpine".parse().unwrap(),
            revision: 7,
            removed: false,
            actor: "ada".to_owned(),
        }
        .into();
        let mut command = DeliverEvent {
            endpoint: "hook".parse().unwrap(),
            event_id: EventId::of("t", "k", "1"),
            event_type: event.type_name().to_owned(),
            event_time: "2026-11-24T12:00:00.120Z".parse().unwrap(),
            payload: event.encode(),
            event_source: "/sluice/cli".to_owned(),
        };
        let without_links = TraceUrl::default();
        let body = cloud_event(&command, &event, "c-1", &without_links);
        assert_eq!(
            body,
            json!({
                "specversion": "1.0",
                "id": command.event_id.to_string(),
                "source": "/sluice/cli",
                "type": "sluice.events.v1.ResourceApplied",
                "time": "2026-11-24T12:00:00.120Z",
                "subject": "sluice.v1.resource.applied.mirror.alpine",
                "datacontenttype": "application/json",
                "eventname": "resource.applied",
                "correlationid": "c-1",
                "data": { "kind": "Mirror", "name": "alpine", "revision": 7, "removed": false, "actor": "ada" },
            })
        );
        // Attributes beyond the standard ones are lower case letters and digits only.
        for name in body.as_object().unwrap().keys() {
            assert!(name.bytes().all(|b| b.is_ascii_lowercase()), "{name}");
        }
        command.event_source.clear();
        let body = cloud_event(&command, &event, "c-1", &without_links);
        assert_eq!(body["source"], "/sluice");
    }
}
