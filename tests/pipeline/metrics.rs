//! The names in the alarms are those that the services really export.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use sluice_tests::content::{NEW_LIBC, debian};
use sluice_tests::endpoint::{Endpoint, webhook};
use sluice_tests::{Database, Limited, Stack, root, wait_for};

/// The key that the webhook signs with.
const SIGNING_KEY: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// Returns the names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    text.split(|letter: char| !letter.is_ascii_lowercase() && letter != '_')
        .filter(|word| word.starts_with("sluice_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_metric_of_an_alarm_is_exported_and_every_alarm_is_described() {
    let alerts = fs::read_to_string(root().join("deploy/alerts.yaml")).unwrap();
    let operations = fs::read_to_string(root().join("docs/OPERATIONS.md")).unwrap();
    let reference = fs::read_to_string(root().join("docs/METRICS.md")).unwrap();
    let alarms = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alarm in alarms {
        assert!(operations.contains(&format!("### {alarm}\n")), "{alarm}");
    }
    let wanted: BTreeSet<String> = names(&alerts)
        .into_iter()
        .chain(names(&operations))
        .chain(names(&reference))
        .collect();
    assert!(wanted.len() > 8, "{wanted:?}");

    let mut stack = Stack::start(7_200);
    Database::of("2020-01-02T00:00:00Z").publish(&stack);
    let folder = stack.folder().to_owned();
    let endpoint = Endpoint::library(&folder, "endpoint", SIGNING_KEY, &[]);
    let image = stack
        .publisher()
        .files("library/app", "amd64", &debian(&[NEW_LIBC]));
    stack.publisher().put("library/app", "1.0", &image);
    let mut services = vec![("gateway", 0)];
    for stage in [
        "poller",
        "mirror-worker",
        "promoter",
        "pruner",
        "webhook-dispatcher",
    ] {
        services.push((stage, stack.service(stage, &[])));
    }
    services.push(("scanner-adapter", stack.scanner(&[])));
    // Only where pulls are limited is anything told of them.
    let limited = Limited::between(&stack.upstream.host, 100, Duration::from_secs(3_600));
    let host = &limited.host;
    let hook = webhook(
        &folder,
        "hook",
        &endpoint.url,
        SIGNING_KEY,
        "events: [image.promoted]\n",
    );
    stack.apply(&format!(
        "{hook}---\nkind: PromotionPolicy\nname: clean\nfrom: hub/*\nto: official/{{name}}\nwhen: scan.critical == 0\n---\n\
         kind: Registry\nname: limited\nhost: {host}\nplain_http: true\n---\n\
         kind: Mirror\nname: app\nfrom: {host}/library/app\nto: hub/app\n"
    ));
    let mut missing = wanted.clone();
    // These count by the registry and the webhook that they are about.
    missing.extend([
        format!("sluice_events_published_total{{event=\"tag.mirrored\",registry=\"{host}\",service=\"mirror-worker\"}}"),
        "sluice_events_published_total{event=\"image.promoted\",registry=\"\",service=\"promoter\"}".to_owned(),
        format!("sluice_mirror_copy_duration_seconds_count{{registry=\"{host}\"}}"),
        "sluice_promotion_duration_seconds_count{registry=\"\"}".to_owned(),
        "sluice_webhook_delivery_duration_seconds_count{outcome=\"delivered\",webhook=\"hook\"}"
            .to_owned(),
    ]);
    wait_for("every metric to be exported", 60, || {
        for (name, number) in &services {
            for line in stack.metrics(name, *number).lines() {
                // The type is written once for all parts of a histogram.
                let line = line.strip_prefix("# TYPE ").unwrap_or(line);
                missing.remove(line.split(' ').next().unwrap_or_default());
                missing.remove(line.split(['{', ' ']).next().unwrap_or_default());
            }
        }
        missing.is_empty().then_some(())
    });
    // What is looked for after the image asks the upstream too, which ends before the stack does.
    wait_for("every stage to be done", 60, || {
        stack.is_quiet().then_some(())
    });
}
