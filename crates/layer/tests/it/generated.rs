//! Ten thousand generated images: what is accepted is one thing to every reader.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, TestRunner};
use sluice_layer::{Error, Rule};

use crate::clients::{Client, Tree, trivy};
use crate::generate::image;
use crate::verdicts::{Verdict, check};

#[derive(Default)]
struct Counts {
    accepted: u32,
    with_files: u32,
    refused: BTreeMap<Rule, u32>,
    /// Images that clients unpack in different ways, or not as the scanner sees them.
    disagreements: u32,
}

/// What a test run reads; `PROPTEST_CASES=1000000` reads more.
const IMAGES: u32 = 10_000;

#[test]
fn what_is_accepted_is_unpacked_in_one_way_and_scanned_as_it_is() {
    let counts = RefCell::new(Counts::default());
    let images = IMAGES.max(Config::default().cases);
    let mut runner = TestRunner::new(Config {
        cases: images,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&vec(any::<u8>(), 0..400), |bytes| {
        let layers = image(&bytes);
        let mut counts = counts.borrow_mut();
        match check(&layers) {
            Verdict::Accepted(tree) => {
                counts.accepted += 1;
                counts.with_files += u32::from(tree.len() > 2);
            }
            Verdict::Refused(error) => {
                if let Error::Refused(refused) = &error {
                    *counts.refused.entry(refused.rule).or_default() += 1;
                }
                let trees: Vec<Tree> = Client::ALL
                    .iter()
                    .filter_map(|client| client.unpack(&layers).ok())
                    .collect();
                let scanned = trivy(&layers).unwrap_or_default();
                let differ = trees.iter().any(|tree| {
                    *tree != trees[0] || scanned.keys().any(|path| !tree.contains_key(path))
                });
                counts.disagreements += u32::from(differ);
            }
        }
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    let counts = counts.into_inner();
    let summary = format!(
        "accepted {} ({} with files), disagreements {}, refused {:?}",
        counts.accepted, counts.with_files, counts.disagreements, counts.refused
    );
    println!("{summary}");
    // The test is worth something only if much passes and each rule is needed.
    assert!(counts.accepted > images / 4, "{summary}");
    assert!(counts.with_files > images / 8, "{summary}");
    assert!(counts.disagreements > images / 40, "{summary}");
    for rule in Rule::ALL {
        assert!(
            counts.refused.contains_key(&rule),
            "no image broke {rule}: {summary}"
        );
    }
}
