//! The scanner adapter dies between the report, the verdict and the fact.

use sluice_events::commands::ScanImage;
use sluice_events::wire::state::VerdictStatus;
use sluice_state::key;
use sluice_tests::Database;
use sluice_tests::content::{OLD_LIBC, debian};

use super::{Play, dies};

const UPDATED: &str = "2020-01-02T00:00:00Z";

fn run(play: &mut Play, at: &str) {
    let settings = play.stack.scanner_settings();
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    play.run(at, &settings);
}

/// An image is scanned once, with its report and its bill of materials.
fn scan(at: &str) {
    let mut play = Play::of("scanner-adapter");
    Database::of(UPDATED).publish(&play.stack);
    let writer = play.stack.as_service("mirror-worker");
    let image = writer.files("hub/app", "amd64", &debian(&[OLD_LIBC]));
    writer.put("hub/app", "1.0", &image);
    play.bus.command(ScanImage {
        repository: "hub/app".parse().unwrap(),
        tag: "1.0".parse().ok(),
        digest: image.digest.parse().unwrap(),
    });
    run(&mut play, at);
    play.expect_published(&[("scanner.database_updated", 1), ("scan.succeeded", 1)]);
    let key = key::verdict(&image.digest.parse().unwrap());
    let verdict = play.bus.run(play.bus.state.verdicts.get(&key)).unwrap();
    let verdict = verdict.unwrap().value;
    assert_eq!(verdict.status(), VerdictStatus::Covered);
    assert_eq!(verdict.counts.unwrap().high, 3);
    for stored in [
        &verdict.report_key,
        &verdict.sbom_key,
        &verdict.findings_key,
    ] {
        assert!(
            !play
                .bus
                .run(play.bus.state.report(stored))
                .unwrap()
                .is_empty()
        );
    }
}

dies!(scan:
    an_image_is_scanned_without_a_death at "",
    an_image_is_scanned_after_the_database_was_told at "scanner-adapter.database_told",
    an_image_is_scanned_after_its_report_was_stored at "scanner-adapter.report_stored",
    an_image_is_scanned_after_its_bill_was_stored at "scanner-adapter.sbom_stored",
    an_image_is_scanned_after_its_findings_were_stored at "scanner-adapter.findings_stored",
    an_image_is_scanned_after_its_verdict at "scanner-adapter.verdict_written",
    an_image_is_scanned_after_it_was_told at "bus.fact_published",
);

/// An image that is not there fails for good.
fn failure(at: &str) {
    let mut play = Play::of("scanner-adapter");
    play.stack.may_leave_messages();
    Database::of(UPDATED).publish(&play.stack);
    play.bus.command(ScanImage {
        repository: "hub/app".parse().unwrap(),
        tag: None,
        digest: format!("sha256:{}", "0a".repeat(32)).parse().unwrap(),
    });
    run(&mut play, at);
    play.buried(&[("scanner.database_updated", 1), ("scan.failed", 1)]);
}

dies!(failure:
    a_failed_scan_is_told_without_a_death at "",
    a_failed_scan_is_told_after_it_was_told at "scanner-adapter.failure_told",
);
