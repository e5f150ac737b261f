//! What every stage has in common: its connections, its tasks beside the work, and the work itself.

use std::time::Duration;

use sluice_bus::topology::Stage;
use sluice_bus::{Bus, ConsumeSettings, Handler};
use sluice_service::{BusSettings, Host};

use crate::State;
use crate::catalog::{Catalog, Snapshot};
use crate::reconcile::keep_complete;
use crate::schedules::{Wanted, keep_schedules};

/// The services that delete tags, and so may write tombstones.
const DELETING: [&str; 3] = ["mirror-worker", "promoter", "pruner"];

/// One stage in this process, connected.
#[derive(Debug)]
pub struct StageRunner {
    bus: Bus,
    state: State,
    catalog: Catalog,
    stage: &'static Stage,
    host: Host,
}

impl StageRunner {
    /// Connects a stage to the bus and its state.
    ///
    /// # Errors
    /// A bus that cannot be reached or is not provisioned.
    pub async fn connect(
        stage: &'static Stage,
        settings: &BusSettings,
        host: &Host,
    ) -> anyhow::Result<Self> {
        let bus = Bus::connect_service(settings, stage.name, host).await?;
        let state = State::open(&bus).await?;
        let (catalog, feed) = Catalog::open(&state).await?;
        let stopping = host.stopping();
        host.spawn("catalogue", async move { Ok(feed.run(stopping).await?) });
        if DELETING.contains(&stage.name) {
            let (bus, stopping) = (bus.clone(), host.stopping());
            host.spawn(
                "probe",
                async move { Ok(bus.probe_storage(stopping).await?) },
            );
        }
        Ok(Self {
            bus,
            state,
            catalog,
            stage,
            host: host.clone(),
        })
    }

    /// Returns what a handler works with.
    #[must_use]
    pub fn connections(&self) -> (Bus, State, Catalog) {
        (self.bus.clone(), self.state.clone(), self.catalog.clone())
    }

    /// Returns how long a claim of this stage holds without a sign of life: as long as one of its messages.
    ///
    /// # Errors
    /// A consumer that was not provisioned, or a server that does not answer.
    pub async fn claim(&self) -> anyhow::Result<Duration> {
        Ok(self.bus.ack_wait(self.stage).await?)
    }

    /// Keeps the schedules below a prefix as the resources want them.
    pub fn keep_schedules(
        &self,
        prefix: &'static str,
        wanted: impl Fn(&Snapshot) -> Vec<Wanted> + Send + 'static,
    ) {
        let (bus, catalog) = (self.bus.clone(), self.catalog.clone());
        let schedules = keep_schedules(bus, catalog, self.host.stopping(), prefix, wanted);
        self.host.spawn("schedules", schedules);
    }

    /// Works through the messages of the stage, and searches for missing work at the start, every hour, and when the
    /// log lost something.
    pub fn run(self, handler: impl Handler, settings: ConsumeSettings) {
        self.run_once_ready(std::future::ready(()), handler, settings);
    }

    /// As [`StageRunner::run`], but takes no message before the stage is ready: they are left to replicas that are.
    pub fn run_once_ready(
        self,
        ready: impl Future<Output = ()> + Send + 'static,
        handler: impl Handler,
        settings: ConsumeSettings,
    ) {
        let (bus, stage, stopping) = (self.bus, self.stage, self.host.stopping());
        let reconcile = keep_complete(bus.clone(), stage, stopping.clone());
        self.host.spawn("reconcile", reconcile);
        self.host.spawn(stage.name, async move {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return Ok(()),
                () = ready => {}
            }
            Ok(bus.consume(stage, handler, settings, stopping).await?)
        });
    }
}
