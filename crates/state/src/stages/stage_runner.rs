//! Runs a stage: its connections, its background tasks, and its consumer.

use std::time::Duration;

use sluice_bus::topology::Stage;
use sluice_bus::{Bus, ConsumeSettings, Handler};
use sluice_service::{BusSettings, Host};

use crate::State;
use crate::resources::catalog::Catalog;
use crate::resources::schedules::{DesiredSchedule, keep_schedules};
use crate::resources::snapshot::Snapshot;
use crate::stages::log_watch::request_reconciliations;

/// A stage of this process, connected to the bus.
#[derive(Debug)]
pub struct StageRunner {
    bus: Bus,
    state: State,
    catalog: Catalog,
    stage: &'static Stage,
    host: Host,
}

impl StageRunner {
    /// Connects a stage to the bus, and runs the feed of its catalogue.
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
        // The probe writes a tombstone.
        if stage.rights.writes_tags {
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

    /// Returns the connections for the handler.
    #[must_use]
    pub fn connections(&self) -> (Bus, State, Catalog) {
        (self.bus.clone(), self.state.clone(), self.catalog.clone())
    }

    /// Returns how long a claim of a tag lasts: until an unacknowledged message of the stage is delivered again.
    pub async fn claim(&self) -> anyhow::Result<Duration> {
        Ok(self.bus.ack_wait(self.stage).await?)
    }

    /// Keeps the schedules below a prefix as the resources ask for.
    pub fn keep_schedules(
        &self,
        prefix: &'static str,
        desired: impl Fn(&Snapshot) -> Vec<DesiredSchedule> + Send + 'static,
    ) {
        let (bus, catalog) = (self.bus.clone(), self.catalog.clone());
        let schedules = keep_schedules(bus, catalog, self.host.stopping(), prefix, desired);
        self.host.spawn("schedules", schedules);
    }

    /// Consumes the messages of the stage, and requests its reconciliations.
    pub fn run(self, handler: impl Handler, settings: ConsumeSettings) {
        self.run_once_ready(std::future::ready(()), handler, settings);
    }

    /// As [`StageRunner::run`], but consumes no message before the stage is ready: they are left to replicas that are.
    pub fn run_once_ready(
        self,
        ready: impl Future<Output = ()> + Send + 'static,
        handler: impl Handler,
        settings: ConsumeSettings,
    ) {
        let (bus, stage, stopping) = (self.bus, self.stage, self.host.stopping());
        let reconcile = request_reconciliations(bus.clone(), stage, stopping.clone());
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
