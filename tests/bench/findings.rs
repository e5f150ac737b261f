//! Fills the state with the verdicts of 10,000 images, and says how long searches of their findings take.
//!
//! `cargo run --release --example findings [IMAGES]`. Each image has 200 vulnerabilities, 120 packages and a document of
//! its own; ten have the rare vulnerability, and all have the common one. Reading one verdict after the other is the limit.
#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use sha2::Digest as _;
use sluice_domain::{Digest, Finding, ManifestFindings};
use sluice_events::wire::state::{
    ImageChild, ImageEntry, TagEntry, Verdict, VerdictStatus, VerifiedLayer,
};
use sluice_state::{SearchTerm, State, key};
use sluice_tests::Stack;

const PARALLEL: usize = 256;
const ROUNDS: usize = 5;
const RARE: &str = "CVE-2027-0001";
const COMMON: &str = "CVE-2026-00007";

fn lines(count: usize, term: impl Fn(usize) -> String) -> String {
    (0..count).map(term).collect::<Vec<_>>().join("\n")
}

/// Writes one image with its tag, verdict and findings.
async fn image(state: &State, number: usize, images: usize) {
    let hash = hex::encode(sha2::Sha256::digest(number.to_le_bytes()));
    let digest: Digest = format!("sha256:{hash}").parse().unwrap();
    let is_rare = number.is_multiple_of((images / 10).max(1));
    let mut ids = lines(200, |number| format!("CVE-2026-{number:05}"));
    if is_rare {
        ids += "\n";
        ids += RARE;
    }
    let finding = |id: &str| Finding {
        id: id.to_owned(),
        package: format!("lib{number}"),
        installed_version: "1.0".to_owned(),
        title: "a vulnerability that is described in about as many words as others".to_owned(),
        ..Finding::default()
    };
    let findings = ManifestFindings {
        findings: ids.lines().map(finding).collect(),
        ..ManifestFindings::default()
    };
    let layer = |number: usize| VerifiedLayer {
        digest: format!(
            "sha256:{}",
            hex::encode([u8::try_from(number).unwrap(); 32])
        ),
        diff_id: digest.to_string(),
        ..Default::default()
    };
    let verdict = Verdict {
        digest: digest.to_string(),
        status: VerdictStatus::Covered.into(),
        platform: "linux/amd64".to_owned(),
        findings_key: state.store_findings(&findings).await.unwrap(),
        vulnerability_ids: ids,
        package_names: lines(120, |number| format!("libpackage-{number:03}")),
        licenses: lines(10, |number| format!("LICENSE-{number}.0-or-later")),
        layers: (0..5).map(layer).collect(),
        ..Default::default()
    };
    let child = ImageChild {
        digest: digest.to_string(),
        platform: "linux/amd64".to_owned(),
        ..Default::default()
    };
    let entry = ImageEntry {
        digest: digest.to_string(),
        children: vec![child],
        ..Default::default()
    };
    let (repository, tag) = (
        format!("hub/app{}", number / 100),
        format!("1.{}", number % 100),
    );
    let tag = TagEntry {
        repository,
        tag,
        digest: digest.to_string(),
        ..Default::default()
    };
    let at = key::tag(&tag.repository.parse().unwrap(), &tag.tag.parse().unwrap());
    state
        .verdicts
        .put(&key::verdict(&digest), &verdict)
        .await
        .unwrap();
    state
        .images
        .put(&key::image(&digest), &entry)
        .await
        .unwrap();
    state.tags.put(&at, &tag).await.unwrap();
}

/// Returns the median time in milliseconds, and what the work returned last.
fn median<T>(mut work: impl FnMut() -> T) -> (f64, T) {
    let mut times = Vec::new();
    let mut result = None;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        result = Some(work());
        times.push(began.elapsed());
    }
    times.sort();
    let middle: Duration = times[ROUNDS / 2];
    (middle.as_secs_f64() * 1_000.0, result.unwrap())
}

fn main() {
    let images = std::env::args()
        .nth(1)
        .map_or(10_000, |text| text.parse().unwrap());
    let stack = Stack::start(7_200);
    let bus = stack.bus();
    let state = &bus.state;
    bus.run(
        stream::iter(0..images)
            .for_each_concurrent(PARALLEL, |number| image(state, number, images)),
    );
    let (limit, ()) = median(|| {
        bus.run(state.verdicts.each(">", |_, _| ControlFlow::Continue(())))
            .unwrap();
    });
    println!("reading {images} verdicts: {limit:.0} ms");
    for (name, id) in [
        ("rare", RARE),
        ("common", COMMON),
        ("absent", "CVE-1999-0001"),
    ] {
        let term = SearchTerm::Vulnerability(id.to_owned());
        let (time, total) = median(|| {
            let found = bus
                .run(state.search_findings(&term, |_| true, 100))
                .unwrap();
            found.total
        });
        println!(
            "{name} vulnerability: {total} images in {time:.0} ms, {:.1} times the verdicts alone",
            time / limit
        );
    }
}
