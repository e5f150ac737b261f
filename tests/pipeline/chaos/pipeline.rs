//! Every stage as a process, with a proxy before the bus, the registry and the upstream.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use sluice_tests::content::{JINJA, NEW_LIBC, OLD_LIBC, debian};
use sluice_tests::endpoint::{Endpoint, webhook};
use sluice_tests::{BusClient, Database, Disks, Proxy, Stack, pass, wait_for};

use super::end::End;

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const POLICIES: &str = "---
kind: Repository
name: official/*
visibility: public
---
kind: PromotionPolicy
name: clean
from: hub/*
to: official/{name}
when: scan.critical == 0 && scan.high == 0
---
kind: PruningPolicy
name: last
repositories: [hub/*]
schedule: '0 3 1 1 *'
delete: tag == '1.4'
";
/// The stages, each as often as it runs.
const STAGES: [(&str, usize); 6] = [
    ("poller", 1),
    ("mirror-worker", 2),
    ("scanner-adapter", 2),
    ("promoter", 2),
    ("pruner", 1),
    ("webhook-dispatcher", 1),
];

/// A pipeline that may be disturbed.
pub(crate) struct Pipeline {
    pub(crate) stack: Stack,
    pub(crate) before_bus: Proxy,
    pub(crate) before_registry: Proxy,
    pub(crate) before_upstream: Proxy,
    pub(crate) endpoint: Endpoint,
    pub(crate) before_endpoint: Proxy,
    bus: BusClient,
    running: BTreeMap<&'static str, Vec<usize>>,
    repositories: BTreeMap<usize, usize>,
}

impl Pipeline {
    /// Starts it.
    pub(crate) fn start() -> Self {
        Self::on(Disks::default())
    }

    /// Starts it with the servers' data on these disks.
    pub(crate) fn on(disks: Disks<'_>) -> Self {
        let stack = Stack::on(disks, 7_200);
        Database::of("2020-01-02T00:00:00Z").publish(&stack);
        let endpoint = Endpoint::library(stack.folder(), "endpoint", SECRET, &[]);
        let host = endpoint.url.trim_start_matches("http://");
        let (host, _) = host.split_once('/').unwrap();
        let mut pipeline = Self {
            before_bus: Proxy::between(stack.nats.url.trim_start_matches("nats://")),
            before_registry: Proxy::between(&stack.internal.host),
            before_upstream: Proxy::between(&stack.upstream.host),
            before_endpoint: Proxy::between(host),
            endpoint,
            bus: stack.bus(),
            stack,
            running: BTreeMap::new(),
            repositories: BTreeMap::new(),
        };
        for (stage, count) in STAGES {
            for _ in 0..count {
                pipeline.begin(stage);
            }
        }
        pipeline
    }

    /// Starts another process of a stage.
    fn begin(&mut self, stage: &'static str) {
        let bus = format!("nats://{}", self.before_bus.host);
        let registry = format!("http://{}", self.before_registry.host);
        let mut through = vec![("SLUICE__BUS__URL", bus.as_str())];
        if !["poller", "webhook-dispatcher"].contains(&stage) {
            through.push(("SLUICE__REGISTRY__URL", registry.as_str()));
        }
        let number = match stage {
            "scanner-adapter" => self.stack.scanner(&through),
            _ => self.stack.service(stage, &through),
        };
        self.running.entry(stage).or_default().push(number);
    }

    /// Returns what the oldest process of a stage has logged.
    pub(crate) fn log_of(&self, stage: &str) -> String {
        self.stack.log_of(self.running[stage][0])
    }

    /// Returns what the oldest process of a stage says of its readiness.
    pub(crate) fn readiness(&self, stage: &str) -> Option<String> {
        self.stack.readiness(stage, self.running[stage][0])
    }

    /// Kills the oldest process of a stage at once, and starts another.
    pub(crate) fn kill(&mut self, stage: &'static str) {
        if stage == "gateway" {
            self.kill_gateway();
            return;
        }
        let number = self.running.get_mut(stage).unwrap().remove(0);
        self.stack.kill(number);
        self.begin(stage);
    }

    fn kill_gateway(&mut self) {
        self.stack.kill(0);
        let address = |what| {
            let file = self.stack.folder().join(format!("gateway-0.{what}"));
            fs::read_to_string(file).unwrap()
        };
        let (tokens, api) = (address("tokens"), address("api"));
        self.stack.gateway(&[
            ("SLUICE__TOKENS__LISTEN", &tokens),
            ("SLUICE__API__LISTEN", &api),
        ]);
    }

    /// Publishes a repository upstream: three clean images in five, one with findings, one that no scanner knows.
    pub(crate) fn publish(&mut self, number: usize, tags: usize) {
        let publisher = self.stack.publisher();
        let from = format!("library/app{number}");
        for tag in 0..tags {
            let note = format!("{number} {tag}");
            let mut files = match tag % 5 {
                3 => debian(&[OLD_LIBC, JINJA]),
                4 => Vec::new(),
                _ => debian(&[NEW_LIBC]),
            };
            files.push(("note", &note));
            let image = publisher.files(&from, "amd64", &files);
            publisher.put(&from, &format!("1.{tag}"), &image);
        }
        self.repositories.insert(number, tags);
    }

    /// Applies the mirrors of what was published, and everything else.
    pub(crate) fn apply(&self) {
        let upstream = &self.before_upstream.host;
        let mut resources = format!(
            "kind: Registry\nname: upstream\nhost: {upstream}\nplain_http: true\n{POLICIES}"
        );
        for number in self.repositories.keys() {
            resources += &format!(
                "---\nkind: Mirror\nname: app{number}\nfrom: {upstream}/library/app{number}\nto: hub/app{number}\n\
                 every: 2s\n"
            );
        }
        resources += &webhook(
            self.stack.folder(),
            "hook",
            &format!("http://{}/hook", self.before_endpoint.host),
            SECRET,
            "events: [tag.mirrored, 'scan.*', 'image.*', prune.completed]\n",
        );
        self.stack.apply(&resources);
    }

    /// Returns how many facts of a name are in the log, if the bus answers.
    fn count(&self, name: &str) -> Option<usize> {
        let subject = format!("sluice.v1.{name}.>");
        let facts = self.bus.bus.facts(&subject);
        self.bus.run(facts).ok().map(|facts| facts.len())
    }

    /// Waits until a fact has been told so often.
    pub(crate) fn until(&self, name: &str, count: usize) {
        wait_for(&format!("{count} times {name}"), 300, || {
            pass(Duration::from_millis(50));
            (self.count(name)? >= count).then_some(())
        });
    }

    /// Waits until so many images were judged.
    pub(crate) fn until_judged(&self, count: usize) {
        wait_for("every tag to be judged", 420, || {
            pass(Duration::from_millis(300));
            let judged = self.count("image.promoted")? + self.count("image.promotion_denied")?;
            (judged >= count).then_some(())
        });
    }

    /// Asks for a run of retention in every repository.
    pub(crate) fn ask_to_prune(&self) {
        self.stack.sluice(&["prune", "--policy", "last"]);
    }

    /// Waits until retention has run in every repository.
    pub(crate) fn until_pruned(&self) {
        self.until("prune.completed", self.repositories.len());
    }

    /// Waits until nothing is left to do, and returns what there is then.
    pub(crate) fn end(&self) -> End {
        wait_for("every stage to be done", 420, || {
            pass(Duration::from_millis(500));
            self.stack.is_quiet().then_some(())
        });
        let tags = self.repositories.iter().flat_map(|(number, tags)| {
            (0..*tags).map(move |tag| (format!("app{number}"), format!("1.{tag}")))
        });
        let end = End::of(&self.stack, &self.bus, tags);
        end.was_delivered(&self.endpoint);
        end
    }
}
