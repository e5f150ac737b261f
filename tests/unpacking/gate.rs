//! Every hostile image gets the verdict of its row, and what passes is unpacked by clients as it was scanned.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;
use sluice_state::key;
use sluice_tests::hostile::image::TAR;
use sluice_tests::hostile::{
    self, CLEAN, Case, ENTRY_LIMIT, Expected, Layer, Spec, UNPACKED_LIMIT, VULNERABLE,
};
use sluice_tests::{Database, Stack, Upstream, wait_for};

use crate::{Clients, Outcome, described, outcomes};

const REPOSITORY: &str = "hub/case";
/// What podman refuses to unpack, and others unpack as it was scanned: a configuration of Docker's in a manifest of OCI's.
const NOT_FOR_PODMAN: &str = "m13";
/// How long all images may take.
const JUDGED_SECONDS: u32 = 300;
const RESOURCES: &str = "---
kind: Repository
name: hub/*
visibility: private
---
kind: Repository
name: official/*
visibility: public
---
kind: PromotionPolicy
name: clean
from: hub/*
to: official/{name}
when: scan.critical == 0 && scan.high == 0
";

/// Starts what stands between a push and a target.
pub fn gate() -> Stack {
    let mut stack = Stack::start(7_200);
    Database::of("2020-01-02T00:00:00Z").publish(&stack);
    let account = stack.account("publisher", "push: [hub/*]\n");
    stack.apply(&format!("{account}{RESOURCES}"));
    stack.service("promoter", &[]);
    stack
}

/// Returns the one who pushes cases, once the registry lets it.
pub fn publisher(stack: &Stack) -> Upstream {
    let publisher = Upstream::with_account(&stack.internal.host, "publisher", "publisherpublisher");
    wait_for("the gateway to know the publisher", 20, || {
        (publisher.try_upload(REPOSITORY) == 202).then_some(())
    });
    publisher
}

/// Pushes cases, lets the scanner adapter begin once they are noted, and waits until each is judged.
pub fn pass(
    stack: &mut Stack,
    publisher: &Upstream,
    cases: &[&Case],
) -> BTreeMap<&'static str, u16> {
    let statuses: BTreeMap<&str, u16> = cases
        .iter()
        .map(|case| (case.id, case.image.push(publisher, REPOSITORY, case.id)))
        .collect();
    let taken: Vec<&&Case> = cases
        .iter()
        .filter(|case| statuses[case.id] == 201)
        .collect();
    let bus = stack.bus();
    wait_for("every tag to be noted", 60, || {
        let repository = REPOSITORY.parse().unwrap();
        let is_noted = |case: &Case| {
            let key = key::tag(&repository, &case.id.parse().unwrap());
            bus.run(bus.state.tags.get(&key)).unwrap().is_some()
        };
        taken.iter().all(|case| is_noted(case)).then_some(())
    });
    let (unpacked, entries) = ((UNPACKED_LIMIT >> 20).to_string(), ENTRY_LIMIT.to_string());
    let scanner = stack.scanner(&[
        ("SLUICE__LAYERS__UNPACKED_MEGABYTES", &unpacked),
        ("SLUICE__LAYERS__ENTRIES", &entries),
    ]);
    let digests: Vec<String> = taken.iter().map(|case| case.image.digest()).collect();
    // What is not judged in time is among the complaints.
    for _ in 0..JUDGED_SECONDS {
        let outcomes = outcomes(stack);
        let is_judged = |digest: &String| {
            let outcome = outcomes.get(digest);
            outcome.is_some_and(|outcome| outcome.is_promoted || outcome.is_denied)
        };
        if digests.iter().all(is_judged) {
            break;
        }
        sluice_tests::pass(Duration::from_secs(1));
    }
    stack.stop(scanner);
    statuses
}

/// Says what is wrong with what became of a case.
fn complaint(case: &Case, status: u16, outcome: Option<&Outcome>) -> Option<String> {
    let is_kept_out = |outcome: &Outcome| outcome.is_denied && !outcome.is_promoted;
    let is_right = match (case.expected, outcome) {
        (Expected::NotTaken, _) => status >= 400,
        (_, None) => false,
        (Expected::Promoted, Some(outcome)) => {
            outcome.found == Some(0) && outcome.is_promoted && !outcome.is_denied
        }
        (Expected::Vulnerable, Some(outcome)) => {
            outcome.found.is_some_and(|found| found > 0) && is_kept_out(outcome)
        }
        (Expected::Refused(words), Some(outcome)) => {
            let reason = outcome.unsupported.as_deref();
            reason.is_some_and(|reason| reason.contains(words)) && is_kept_out(outcome)
        }
    };
    (!is_right).then(|| {
        format!(
            "{}: expected {:?}, the push was answered with {status}, {outcome:?}",
            case.id, case.expected
        )
    })
}

/// Pushes an image whose layer the registry then serves with other bytes, as many as before (`v01`); returns its digest.
fn push_forged(stack: &Stack, publisher: &Upstream) -> String {
    let (clean, evil) = (
        hostile::system_with(CLEAN),
        hostile::system_with(VULNERABLE),
    );
    assert_eq!(clean.len(), evil.len());
    let layer = Layer::new(TAR, clean.clone(), &clean);
    let image = Spec::of(vec![layer.clone()])
        .config("/config/Labels", json!({"v": "01"}))
        .build();
    publisher.blob(REPOSITORY, TAR, &clean);
    let digest = layer.descriptor["digest"].as_str().unwrap();
    stack.internal.forge_as(digest, |_| evil);
    let config = image.blobs.last().unwrap();
    publisher.blob(REPOSITORY, "", config);
    let top = image.top();
    let status = publisher.try_put_document(REPOSITORY, "v01", top.media_type, &top.bytes);
    assert_eq!(status, 201);
    image.digest()
}

#[test]
fn every_hostile_image_gets_its_verdict_and_clients_unpack_what_was_scanned() {
    let mut stack = gate();
    // What becomes of an image whose registry lies is tried again for a long time.
    stack.may_leave_messages();
    let publisher = publisher(&stack);
    let forged = push_forged(&stack, &publisher);
    let cases = hostile::all();
    let digests: BTreeSet<String> = cases.iter().map(|case| case.image.digest()).collect();
    assert_eq!(digests.len(), cases.len(), "two cases are the same image");
    let (later, first): (Vec<&Case>, Vec<&Case>) = cases.iter().partition(|case| case.is_later);
    let mut statuses = pass(&mut stack, &publisher, &first);
    statuses.extend(pass(&mut stack, &publisher, &later));
    let outcomes = outcomes(&stack);
    let of_forged = outcomes.get(&forged).cloned().unwrap_or_default();
    assert!(
        !of_forged.is_promoted && of_forged.found.is_none(),
        "v01: {of_forged:?}"
    );
    let complaints: Vec<String> = cases
        .iter()
        .filter_map(|case| complaint(case, statuses[case.id], outcomes.get(&case.image.digest())))
        .collect();
    assert!(
        complaints.is_empty(),
        "{} of {} cases:\n{}",
        complaints.len(),
        cases.len(),
        complaints.join("\n")
    );

    let (clients, reader) = (Clients::start(), stack.reader());
    let mut differences = Vec::new();
    for case in cases
        .iter()
        .filter(|case| case.expected == Expected::Promoted)
    {
        let scanned = described(&reader, REPOSITORY, case.id);
        let image = format!("{}/official/case:{}", stack.internal.host, case.id);
        let is_refusal = |line: &String| {
            case.id == NOT_FOR_PODMAN
                && line.contains("by podman: Error: parsing image configuration")
        };
        let mut different = clients.differences(&image, &scanned);
        different.retain(|line| !is_refusal(line));
        differences.extend(different);
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
