//! The processes: the real handlers, each with a bus, a state, a catalogue and a registry account of its own.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use sluice_bus::SimulatedReplica;
use sluice_bus::backend::Delivery;
use sluice_bus::topology::{self, Stage};
use sluice_bus::{Bus, Cause, ConsumeSettings, Handler, Outcome};
use sluice_domain::{Digest, Repository, SeverityCounts, Tag};
use sluice_events::commands::ScanImage;
use sluice_events::facts::{ScanSucceeded, TagMirrored};
use sluice_events::wire::events as wire;
use sluice_events::wire::state::{Verdict, VerdictStatus};
use sluice_events::{Command, Decode, Event, Message, UnexpectedMessage, time_to_wire};
use sluice_mirror_worker::MirrorWorker;
use sluice_poller::Poller;
use sluice_promoter::Promoter;
use sluice_pruner::Pruner;
use sluice_registry::{Client, Endpoint, Transport};
use sluice_state::{Catalog, CatalogFeed, State, describe, key};

use crate::backend::{Server, Wire};
use crate::world::Shared;

/// Work on one message, or for itself.
pub type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

const SETTINGS: ConsumeSettings = ConsumeSettings {
    concurrency: 2,
    handler_timeout: Duration::from_secs(600),
};

/// What a process runs.
#[derive(Debug, Clone)]
pub enum Machine {
    /// The poller.
    Poller(Arc<SimulatedReplica<Poller>>),
    /// The mirror worker.
    Mirror(Arc<SimulatedReplica<MirrorWorker>>),
    /// A scanner that knows the truth.
    Scanner(Arc<SimulatedReplica<Scanner>>),
    /// The promoter.
    Promoter(Arc<SimulatedReplica<Promoter>>),
    /// The pruner.
    Pruner(Arc<SimulatedReplica<Pruner>>),
}

impl Machine {
    /// Works on a message.
    pub fn process(&self, delivery: Delivery) -> Work {
        match self.clone() {
            Self::Poller(replica) => Box::pin(async move { replica.process(delivery).await }),
            Self::Mirror(replica) => Box::pin(async move { replica.process(delivery).await }),
            Self::Scanner(replica) => Box::pin(async move { replica.process(delivery).await }),
            Self::Promoter(replica) => Box::pin(async move { replica.process(delivery).await }),
            Self::Pruner(replica) => Box::pin(async move { replica.process(delivery).await }),
        }
    }
}

/// The stages whose search for missing work is the real one; only these can do without the facts that a purge takes.
pub const RECONCILED: [&Stage; 4] = [
    &topology::POLLER,
    &topology::MIRROR_WORKER,
    &topology::PROMOTER,
    &topology::PRUNER,
];

/// Starts a process of a stage.
pub fn start(shared: &Shared, stage: &str) -> (Machine, CatalogFeed) {
    static UNIQUE: AtomicU64 = AtomicU64::new(0);
    // Processes share no locks, so each has an address of its own for the one registry.
    let number = UNIQUE.fetch_add(1, Ordering::Relaxed);
    let transport = Transport::simulated(Arc::new(Wire(shared.clone())));
    let endpoint = Endpoint::at(
        "registry.test".parse().unwrap(),
        format!("http://p{number}.test").parse().unwrap(),
    );
    let registry = Client::with_transport(transport.clone(), endpoint).unwrap();
    let backend = Arc::new(Server(shared.clone()));
    let bus = Bus::simulated(backend.clone(), stage);
    let (state, catalog, feed) = at_once(shared, async {
        let state = State::open(&bus).await.unwrap();
        let (catalog, feed) = Catalog::open(&state).await.unwrap();
        (state, catalog, feed)
    });
    let machine = match stage {
        "poller" => Machine::Poller(Arc::new(SimulatedReplica::new(
            backend,
            bus,
            &topology::POLLER,
            Poller::new(state, catalog, 2).with_transport(transport),
            SETTINGS,
        ))),
        "mirror-worker" => Machine::Mirror(Arc::new(SimulatedReplica::new(
            backend,
            bus.clone(),
            &topology::MIRROR_WORKER,
            MirrorWorker::new(
                bus,
                state,
                catalog,
                registry,
                topology::MIRROR_WORKER.ack_wait,
            )
            .with_transport(transport),
            SETTINGS,
        ))),
        "scanner-adapter" => Machine::Scanner(Arc::new(SimulatedReplica::new(
            backend,
            bus,
            &topology::SCANNER_ADAPTER,
            Scanner {
                shared: shared.clone(),
                state,
                registry,
            },
            SETTINGS,
        ))),
        "promoter" => Machine::Promoter(Arc::new(SimulatedReplica::new(
            backend,
            bus.clone(),
            &topology::PROMOTER,
            Promoter::new(bus, state, catalog, registry, topology::PROMOTER.ack_wait)
                .reaching(transport),
            SETTINGS,
        ))),
        "pruner" => Machine::Pruner(Arc::new(SimulatedReplica::new(
            backend,
            bus.clone(),
            &topology::PRUNER,
            Pruner::new(bus, state, catalog, registry, topology::PRUNER.ack_wait),
            SETTINGS,
        ))),
        other => panic!("there is no stage `{other}`"),
    };
    (machine, feed)
}

/// Does something without letting anybody between.
pub fn at_once<T>(shared: &Shared, work: impl Future<Output = T>) -> T {
    let before = {
        let mut world = shared.lock();
        world.at_once = true;
        std::mem::replace(&mut world.task, 0)
    };
    let done = work.now_or_never().expect("it waits for nothing");
    let mut world = shared.lock();
    world.at_once = false;
    world.task = before;
    done
}

/// Stands for the scanner adapter, whose scanner is a process: writes verdicts, then tells, as that does.
#[derive(Debug)]
pub struct Scanner {
    shared: Shared,
    state: State,
    registry: Client,
}

/// What it works on.
#[derive(Debug)]
pub struct Target(Repository, Option<Tag>, Digest);

impl Decode for Target {
    fn decode(message: Message) -> Result<Self, UnexpectedMessage> {
        match message {
            Message::Event(Event::TagMirrored(TagMirrored {
                repository,
                tag,
                digest,
                ..
            })) => Ok(Self(repository, Some(tag), digest)),
            Message::Command(Command::ScanImage(ScanImage {
                repository,
                tag,
                digest,
            })) => Ok(Self(repository, tag, digest)),
            other => Err(other.unexpected()),
        }
    }
}

impl Handler for Scanner {
    type Input = Target;
    type Error = sluice_state::Error;

    const SPAN: &'static str = "scan";

    async fn handle(&self, target: Target, _: &Cause) -> Result<Outcome, sluice_state::Error> {
        let Target(repository, tag, digest) = target;
        let entry = match describe(&self.state, &self.registry, &repository, &digest).await {
            Ok(entry) => entry,
            // Its tag names another one by now.
            Err(sluice_state::Error::Registry(error)) if error.is_not_found() => {
                return Ok(Outcome::done());
            }
            Err(error) => return Err(error),
        };
        let (database, bad) = {
            let world = self.shared.lock();
            (world.database, world.bad.clone())
        };
        for child in &entry.children {
            let child_digest: Digest = child.digest.parse().unwrap();
            let key = key::verdict(&child_digest);
            let stored = self.state.verdicts.get(&key).await?;
            let age = |verdict: &Verdict| verdict.database_version.parse::<i64>().unwrap();
            if stored
                .as_ref()
                .is_some_and(|stored| age(&stored.value) >= database)
            {
                continue;
            }
            let verdict = Verdict {
                digest: child.digest.clone(),
                scanner: key::SCANNER.to_owned(),
                database_version: database.to_string(),
                status: VerdictStatus::Covered.into(),
                counts: Some(wire::SeverityCounts {
                    critical: u64::from(bad.contains(&child.digest)),
                    ..Default::default()
                }),
                packages: 10,
                os: "debian 12".to_owned(),
                platform: child.platform.clone(),
                scanned_at: Some(time_to_wire(sluice_domain::now())),
                ..Default::default()
            };
            let revision = stored.map(|stored| stored.revision);
            self.state.verdicts.write(&key, &verdict, revision).await?;
        }
        Ok(Outcome::done().fact(ScanSucceeded {
            repository,
            tag,
            digest,
            scanner: key::SCANNER.parse().unwrap(),
            scanner_version: "1".to_owned(),
            database_version: database.to_string(),
            counts: SeverityCounts::default(),
            children: Vec::new(),
        }))
    }
}
