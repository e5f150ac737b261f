//! Promoters and pruners on real servers; the test itself plays whoever mirrors and scans.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use sluice_events::commands::JudgeImage;
use sluice_events::time_to_wire;
use sluice_events::wire::events::SeverityCounts;
use sluice_events::wire::state::{TagEntry, Verdict, VerdictStatus};
use sluice_registry::{Client, ManifestRef};
use sluice_service::RegistrySettings;
use sluice_state::{internal_registry, key};
use sluice_tests::{BusClient, Image, Stack, pass, wait_for};

/// The longest time between two things that race, in milliseconds.
const MOMENT: u64 = 60;

/// What is expected of a repository and a tag or digest: the digest that is there, or that nothing is.
type Expected = (String, String, Option<String>);

pub(super) struct Arena {
    pub(super) stack: Stack,
    pub(super) bus: BusClient,
    registry: Client,
    seed: u64,
    expected: Vec<Expected>,
    stages: Vec<&'static str>,
}

impl Arena {
    /// Starts the servers and applies resources.
    pub(super) fn start(resources: &str) -> Self {
        let stack = Stack::start(7_200);
        stack.apply(resources);
        let seed = Utc::now().timestamp_micros().unsigned_abs() | 1;
        eprintln!("seed {seed}");
        let settings = RegistrySettings {
            url: format!("http://{}", stack.internal.host).parse().unwrap(),
            account: "gateway".to_owned(),
            password_file: Some(stack.keys.password("gateway")),
            token_host: Some(stack.tokens.clone()),
            token_url: None,
            ca_file: None,
            allow_plain_text: false,
        };
        Self {
            bus: stack.bus(),
            registry: internal_registry(&settings).unwrap(),
            stack,
            seed,
            expected: Vec::new(),
            stages: Vec::new(),
        }
    }

    /// Starts replicas of a stage.
    pub(super) fn stage(&mut self, stage: &'static str, replicas: usize, concurrency: usize) {
        let name = format!("SLUICE__{}__CONCURRENCY", stage.to_uppercase());
        for _ in 0..replicas {
            self.stack
                .service(stage, &[(&name, &concurrency.to_string())]);
        }
        self.stages.push(stage);
    }

    /// Returns a number below a limit.
    pub(super) fn random(&mut self, below: u64) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed % below
    }

    /// Lets a moment pass, so that what was begun is in the middle of something.
    pub(super) fn moment(&mut self) {
        let milliseconds = self.random(MOMENT);
        pass(Duration::from_millis(milliseconds));
    }

    /// Writes the entry of a tag that somebody put.
    pub(super) fn hold(&self, repository: &str, tag: &str, image: &Image) {
        let entry = TagEntry {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            digest: image.digest.clone(),
            generation: 1,
            arrived_at: Some(time_to_wire(Utc::now() - TimeDelta::minutes(1))),
            arrived_by: "mirror-worker".to_owned(),
            ..Default::default()
        };
        let key = key::tag(&repository.parse().unwrap(), &tag.parse().unwrap());
        self.bus.run(self.bus.state.tags.put(&key, &entry)).unwrap();
    }

    /// Stores the verdict on a manifest.
    pub(super) fn verdict(&self, manifest: &Image, critical: u64) {
        let verdict = Verdict {
            digest: manifest.digest.clone(),
            scanner: key::SCANNER.to_owned(),
            database_version: "7".to_owned(),
            status: VerdictStatus::Covered.into(),
            counts: Some(SeverityCounts {
                critical,
                ..Default::default()
            }),
            packages: 12,
            scanned_at: Some(time_to_wire(Utc::now())),
            ..Default::default()
        };
        let key = key::verdict(&manifest.digest.parse().unwrap());
        self.bus
            .run(self.bus.state.verdicts.put(&key, &verdict))
            .unwrap();
    }

    /// Asks for a judgement.
    pub(super) fn judge(&self, repository: &str, tag: &str, image: &Image) {
        self.bus.command(JudgeImage {
            repository: repository.parse().unwrap(),
            tag: tag.parse().unwrap(),
            digest: image.digest.parse().unwrap(),
        });
    }

    /// Waits until nothing is left to do.
    pub(super) fn quiet(&self) {
        wait_for("both sides to be done", 120, || {
            let stages = self.bus.run(self.bus.bus.stage_status()).unwrap();
            let ours = stages
                .iter()
                .filter(|stage| self.stages.contains(&stage.stage));
            let left: u64 = ours.map(|s| s.waiting + s.in_flight + s.later).sum();
            (left == 0).then_some(())
        });
    }

    /// Returns the entries of all tags by their keys.
    pub(super) fn entries(&self) -> BTreeMap<String, TagEntry> {
        let entries = self.bus.run(self.bus.state.tags.list(">")).unwrap();
        entries
            .into_iter()
            .map(|entry| (entry.key, entry.value))
            .collect()
    }

    /// Expects something of the registry; [`Arena::check`] looks.
    pub(super) fn expect(&mut self, repository: &str, reference: &str, digest: Option<&str>) {
        self.expected.push((
            repository.to_owned(),
            reference.to_owned(),
            digest.map(ToOwned::to_owned),
        ));
    }

    /// Asks the registry for everything that is expected.
    pub(super) fn check(&mut self) {
        let expected = std::mem::take(&mut self.expected);
        self.bus.run(async {
            for (repository, reference, digest) in expected {
                let place = repository.parse().unwrap();
                let named: ManifestRef = match reference.parse() {
                    Ok(digest) => ManifestRef::Digest(digest),
                    Err(_) => ManifestRef::Tag(reference.parse().unwrap()),
                };
                let found = self.registry.head(&place, &named).await.unwrap();
                let found = found.map(|head| head.digest.to_string());
                assert_eq!(found, digest, "{repository} {reference}");
            }
        });
        assert_eq!(self.stack.status()["deadLetters"], 0);
    }
}
