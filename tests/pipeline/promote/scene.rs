//! A stack up to the scanner, which the test itself plays: it stores verdicts and tells that it scanned.

use std::collections::BTreeSet;

use chrono::Utc;
use serde_json::Value;
use sluice_domain::SeverityCounts;
use sluice_events::facts::{ScanFailed, ScanSucceeded};
use sluice_events::wire::events::SeverityCounts as WireCounts;
use sluice_events::wire::state::{Decision, Verdict, VerdictStatus};
use sluice_events::{Event, EventId, time_to_wire};
use sluice_state::key;
use sluice_tests::{BusClient, Image, Stack, Upstream, wait_for};

/// What the scanner says of one manifest.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scan {
    /// It saw packages, and so many critical findings.
    Critical(u64),
    /// It understood nothing.
    Unsupported,
    /// It failed.
    Failed,
}

pub(super) const CLEAN: Scan = Scan::Critical(0);

pub(super) struct Scene {
    pub(super) stack: Stack,
    pub(super) bus: BusClient,
}

impl Scene {
    /// Starts everything before the promoter.
    pub(super) fn start() -> Self {
        Self::of(Stack::start(7_200))
    }

    /// As [`Scene::start`], but the work of a promoter that died is soon given to another.
    pub(super) fn quick() -> Self {
        Self::of(Stack::quick(7_200))
    }

    fn of(mut stack: Stack) -> Self {
        stack.service("poller", &[]);
        stack.service("mirror-worker", &[]);
        stack.apply(&stack.upstream_resource());
        let bus = stack.bus();
        Self { stack, bus }
    }

    /// Applies policies.
    pub(super) fn policy(&self, text: &str) {
        self.stack.apply(&format!("kind: PromotionPolicy\n{text}"));
    }

    /// Publishes an image of one layer as `library/<name>:<tag>`.
    pub(super) fn publish(&self, name: &str, tag: &str, content: &str) -> Image {
        let publisher = self.stack.publisher();
        let image = publisher.image(&format!("library/{name}"), "amd64", content);
        publisher.put(&format!("library/{name}"), tag, &image);
        image
    }

    /// Publishes an index of two platforms as `library/<name>:<tag>`; returns it with its children.
    pub(super) fn publish_index(&self, name: &str, tag: &str) -> [Image; 3] {
        let publisher = self.stack.publisher();
        let from = format!("library/{name}");
        let amd64 = publisher.image(&from, "amd64", &format!("{name} amd64"));
        let arm64 = publisher.image(&from, "arm64", &format!("{name} arm64"));
        let index = publisher.index(&from, &[("amd64", &amd64), ("arm64", &arm64)]);
        publisher.put(&from, tag, &index);
        [index, amd64, arm64]
    }

    /// Mirrors `library/<name>` to `hub/<name>`.
    pub(super) fn mirror(&self, name: &str) {
        let mirror = self.stack.mirror(
            name,
            &format!("library/{name}"),
            &format!("hub/{name}"),
            "every: 2s\n",
        );
        self.stack.apply(&mirror);
    }

    /// Waits until `hub/<name>:<tag>` names an image.
    pub(super) fn mirrored(&self, name: &str, tag: &str, image: &Image) {
        let key = key::tag(
            &format!("hub/{name}").parse().unwrap(),
            &tag.parse().unwrap(),
        );
        wait_for(&format!("hub/{name}:{tag} to be mirrored"), 60, || {
            let entry = self.bus.run(self.bus.state.tags.get(&key)).unwrap()?;
            (entry.value.digest == image.digest && entry.value.claim.is_none()).then_some(())
        });
    }

    /// Publishes, mirrors and returns an image.
    pub(super) fn arrived(&self, name: &str, tag: &str, content: &str) -> Image {
        let image = self.publish(name, tag, content);
        self.mirror(name);
        self.mirrored(name, tag, &image);
        image
    }

    /// Stores a verdict.
    pub(super) fn verdict(&self, manifest: &Image, scan: Scan) {
        let (status, reason, critical, packages) = match scan {
            Scan::Critical(critical) => (VerdictStatus::Covered, "", Some(critical), 12),
            Scan::Unsupported => (VerdictStatus::Unsupported, "nothing understood", None, 0),
            Scan::Failed => (VerdictStatus::Failed, "the scanner crashed", None, 0),
        };
        let verdict = Verdict {
            digest: manifest.digest.clone(),
            scanner: key::SCANNER.to_owned(),
            database_version: "database 7".to_owned(),
            status: status.into(),
            reason: reason.to_owned(),
            counts: critical.map(|critical| WireCounts {
                critical,
                ..Default::default()
            }),
            dtr_critical: critical.unwrap_or_default(),
            packages,
            os: "debian 12.5".to_owned(),
            scanned_at: Some(time_to_wire(Utc::now())),
            ..Default::default()
        };
        let key = key::verdict(&manifest.digest.parse().unwrap());
        self.bus
            .run(self.bus.state.verdicts.put(&key, &verdict))
            .unwrap();
    }

    /// Stores a decision, as a promoter that died after it would have left it.
    pub(super) fn decision(&self, decision: &Decision) {
        let key = key::decision(
            &decision.policy.parse().unwrap(),
            &decision.repository.parse().unwrap(),
            &decision.tag.parse().unwrap(),
            &decision.digest.parse().unwrap(),
        );
        self.bus
            .run(self.bus.state.decisions.put(&key, decision))
            .unwrap();
    }

    /// Tells that `hub/<name>:<tag>` was scanned, whatever the verdicts are.
    pub(super) fn tell_scanned(&self, name: &str, tag: &str, image: &Image) {
        self.tell(&Event::from(ScanSucceeded {
            repository: format!("hub/{name}").parse().unwrap(),
            tag: Some(tag.parse().unwrap()),
            digest: image.digest.parse().unwrap(),
            scanner: key::SCANNER.parse().unwrap(),
            scanner_version: "1".to_owned(),
            database_version: "database 7".to_owned(),
            counts: SeverityCounts::default(),
            children: Vec::new(),
        }));
    }

    fn tell_failed(&self, name: &str, tag: &str, image: &Image, unsupported: bool) {
        self.tell(&Event::from(ScanFailed {
            repository: format!("hub/{name}").parse().unwrap(),
            tag: Some(tag.parse().unwrap()),
            digest: image.digest.parse().unwrap(),
            scanner: key::SCANNER.parse().unwrap(),
            reason: "as the test wants it".to_owned(),
            unsupported,
            platform: None,
        }));
    }

    fn tell(&self, event: &Event) {
        let occurrence = EventId::random().to_string();
        self.bus.publish(event.clone(), &occurrence);
    }

    /// Scans an image of one manifest.
    pub(super) fn scan(&self, name: &str, tag: &str, image: &Image, scan: Scan) {
        self.verdict(image, scan);
        match scan {
            Scan::Critical(_) => self.tell_scanned(name, tag, image),
            Scan::Unsupported => self.tell_failed(name, tag, image, true),
            Scan::Failed => self.tell_failed(name, tag, image, false),
        }
    }

    /// Speaks to the internal registry.
    pub(super) fn reader(&self) -> Upstream {
        self.stack.reader()
    }

    /// Returns the status of a GET of a manifest in the internal registry.
    pub(super) fn status(&self, repository: &str, reference: &str) -> u16 {
        self.reader()
            .status(&format!("{repository}/manifests/{reference}"))
    }

    /// Waits for so many facts of a name and returns them.
    pub(super) fn events(&self, name: &str, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} of {name}"), 60, || {
            let facts = self.stack.events(name);
            (facts.len() >= count).then_some(facts)
        })
    }

    /// Waits until nothing is left to do.
    pub(super) fn quiet(&self) {
        wait_for("every stage to be done", 90, || {
            self.stack.is_quiet().then_some(())
        });
    }

    /// Asserts that facts of a name were told so often, each once.
    pub(super) fn expect_published(&self, name: &str, count: usize) {
        self.events(name, count);
        self.quiet();
        let facts = self.stack.events(name);
        let ids: BTreeSet<String> = facts.iter().map(|fact| fact["id"].to_string()).collect();
        assert_eq!(
            (facts.len(), ids.len()),
            (count, count),
            "{name}: {facts:#?}"
        );
    }
}
