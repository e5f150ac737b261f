//! An image can be followed through the processes in one trace.

use std::collections::BTreeSet;

use serde_json::Value;
use sluice_tests::content::{NEW_LIBC, debian};
use sluice_tests::endpoint::{Endpoint, webhook};
use sluice_tests::traces::Traces;
use sluice_tests::{Database, Stack, wait_for};

/// Every span of an image's way, and the process that it comes from.
const WAY: [(&str, &str); 5] = [
    ("poll", "sluice-poller"),
    ("mirror", "sluice-mirror-worker"),
    ("scan", "sluice-scanner-adapter"),
    ("promote", "sluice-promoter"),
    ("deliver", "sluice-webhook-dispatcher"),
];

#[test]
fn one_trace_spans_poll_mirror_scan_promote_and_deliver_in_separate_processes() {
    let traces = Traces::start();
    let mut stack = Stack::start(7_200);
    Database::of("2020-01-02T00:00:00Z").publish(&stack);
    let folder = stack.folder().to_owned();
    let endpoint = Endpoint::library(
        &folder,
        "endpoint",
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        &[],
    );
    let image = stack
        .publisher()
        .files("library/app", "amd64", &debian(&[NEW_LIBC]));
    stack.publisher().put("library/app", "1.0", &image);
    let exporter = [("OTEL_EXPORTER_OTLP_ENDPOINT", traces.endpoint.as_str())];
    let url = "http://jaeger.example/trace/{trace}";
    for stage in ["poller", "mirror-worker", "promoter"] {
        stack.service(stage, &exporter);
    }
    let links = ("SLUICE__WEBHOOKS__TRACE_URL", url);
    stack.service("webhook-dispatcher", &[exporter[0], links]);
    stack.scanner(&exporter);
    let resources = [
        stack.upstream_resource(),
        "---\nkind: PromotionPolicy\nname: clean\nfrom: hub/*\nto: official/{name}\nwhen: scan.critical == 0 && scan.high == 0\n"
            .to_owned(),
        webhook(
            &folder,
            "hook",
            &endpoint.url,
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "events: [image.promoted]\n",
        ),
        stack.mirror("app", "library/app", "hub/app", ""),
    ];
    stack.apply(&resources.concat());
    let trace = wait_for("a trace with every span of the way", 90, || {
        let spans = traces.spans();
        let of = |(name, service): (&str, &str)| -> BTreeSet<String> {
            let named = spans
                .iter()
                .filter(|span| span.name == name && span.service == service);
            named.map(|span| span.trace.clone()).collect()
        };
        let common = WAY.into_iter().map(of).reduce(|one, other| &one & &other);
        common.and_then(|common| common.first().cloned())
    });
    let promoted = stack.events("image.promoted");
    assert_eq!(promoted.len(), 1);
    // The event, the webhook and `explain` name the trace.
    let of = |value: &Value| value["traceparent"].as_str().unwrap()[3..35].to_owned();
    assert_eq!(of(&promoted[0]), trace);
    let delivered = wait_for("the delivery", 30, || endpoint.requests().pop());
    let link = url.replace("{trace}", &trace);
    let delivered = delivered.to_string();
    assert!(delivered.contains(&format!("00-{trace}")), "{delivered}");
    assert!(delivered.contains(&link), "{delivered}");
    let explained = stack.sluice(&["explain", "official/app:1.0", "--trace-url", url]);
    assert!(explained.contains(&link), "{explained}");
    let explained = stack.sluice(&["explain", "official/app:1.0", "-o", "json"]);
    let explained: Value = serde_json::from_str(&explained).unwrap();
    let shown = &explained["traces"][0];
    assert_eq!(shown["id"], trace.as_str(), "{explained}");
    assert!(
        shown["url"].is_null(),
        "without a URL there is no link: {shown}"
    );
}
