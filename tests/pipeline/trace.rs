//! An image can be followed through the processes in one trace.

use sluice_tests::traces::Traces;
use sluice_tests::{Stack, wait_for};

#[test]
fn one_trace_spans_poll_and_mirror_in_separate_processes() {
    let traces = Traces::start();
    let mut stack = Stack::start(7_200);
    let image = stack.publisher().image("library/app", "amd64", "content");
    stack.publisher().put("library/app", "1.0", &image);
    let exporter = [("OTEL_EXPORTER_OTLP_ENDPOINT", traces.endpoint.as_str())];
    stack.service("poller", &exporter);
    stack.service("mirror-worker", &exporter);
    stack.apply(&format!(
        "{}{}",
        stack.upstream_resource(),
        stack.mirror("app", "library/app", "hub/app", "")
    ));
    let (poll, mirror) = wait_for("the spans of both processes", 60, || {
        let spans = traces.spans();
        let mirror = spans.iter().find(|span| span.name == "mirror")?.clone();
        let poll = spans
            .into_iter()
            .find(|span| span.name == "poll" && span.trace == mirror.trace)?;
        Some((poll, mirror))
    });
    assert_eq!(
        (poll.service.as_str(), mirror.service.as_str()),
        ("sluice-poller", "sluice-mirror-worker")
    );
}
