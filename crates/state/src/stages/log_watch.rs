//! Watches the log of a stage: requests its reconciliations, and reports its lag.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::topology::{EVENTS, Stage};
use sluice_bus::{Bus, ConsumerPosition, LogGap};
use sluice_telemetry::metrics;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::stages::reconcile::{self, reason};

/// How often a stage checks whether the log lost messages that it had not seen.
const GAP_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How long after a gap in the middle of the log further ones are ignored; expired pulls leave gaps all day.
const GAP_PAUSE: TimeDelta = TimeDelta::minutes(15);
/// Replicas that start within so many seconds request one reconciliation.
const START_WINDOW_SECONDS: i64 = 10;

/// Requests the reconciliations of a stage: at its start, every hour, and when the log lost messages that it had not
/// seen. Reports the lag of the stage meanwhile.
pub(super) async fn request_reconciliations(
    bus: Bus,
    stage: &'static Stage,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    let mut watch = LogWatch::new(bus, stage);
    loop {
        if let Err(error) = watch.check().await {
            tracing::warn!(%error, stage = stage.name, "failed to check the log for gaps; retrying in 5s");
        }
        tokio::select! {
            () = tokio::time::sleep(GAP_CHECK_INTERVAL) => {}
            () = stopping.cancelled() => return Ok(()),
        }
    }
}

/// Compares the positions of a stage's consumers with those of the check before.
struct LogWatch {
    bus: Bus,
    stage: &'static Stage,
    before: Vec<ConsumerPosition>,
    is_started: bool,
    last_gap_at: Option<DateTime<Utc>>,
}

impl LogWatch {
    const fn new(bus: Bus, stage: &'static Stage) -> Self {
        Self {
            bus,
            stage,
            before: Vec::new(),
            is_started: false,
            last_gap_at: None,
        }
    }

    /// The positions before are replaced only once everything that follows from the comparison is published.
    async fn check(&mut self) -> Result<(), Error> {
        let now = self.bus.consumer_positions(self.stage).await?;
        self.report_metrics(&now);
        if self.is_started {
            for position in &now {
                let before = self
                    .before
                    .iter()
                    .find(|before| before.stream == position.stream);
                if let Some(gap) = before.and_then(|before| position.lost_since(before)) {
                    self.handle_gap(position, gap).await?;
                }
            }
        } else {
            self.start(&now).await?;
            self.is_started = true;
        }
        self.before = now;
        Ok(())
    }

    async fn start(&self, now: &[ConsumerPosition]) -> Result<(), Error> {
        // A counter that appears with its first gap would hide that one from a rate.
        self.count_lost_messages(0);
        self.bus
            .put_schedule(&reconcile::hourly_schedule(self.stage))
            .await?;
        // A gap since another start is a new reason, so the fingerprints of the streams are part of the id.
        let fingerprints: Vec<String> = now.iter().map(ConsumerPosition::fingerprint).collect();
        let log = self.bus.log_fingerprint().await?;
        let window = sluice_domain::now().timestamp() / START_WINDOW_SECONDS;
        let id = format!("{log}/{}/{window}", fingerprints.join("/"));
        reconcile::request(&self.bus, self.stage, reason::START, &id).await
    }

    async fn handle_gap(&mut self, position: &ConsumerPosition, gap: LogGap) -> Result<(), Error> {
        let now = sluice_domain::now();
        let is_recent = self.last_gap_at.is_some_and(|at| now - at < GAP_PAUSE);
        let messages = match gap {
            // Finished messages leave a work queue, so only a new stream is a gap there.
            LogGap::Beginning(_) | LogGap::Middle if position.stream != EVENTS => return Ok(()),
            LogGap::Middle if is_recent => return Ok(()),
            LogGap::Middle => {
                self.last_gap_at = Some(now);
                0
            }
            // An upper bound.
            LogGap::Beginning(messages) => messages,
            LogGap::Replaced => 0,
        };
        tracing::warn!(
            stage = self.stage.name,
            stream = position.stream,
            ?gap,
            "the log lost messages that this stage may not have processed; reconciling"
        );
        self.count_lost_messages(messages);
        let id = format!("{}/{}", position.stream, position.fingerprint());
        reconcile::request(&self.bus, self.stage, reason::LOST, &id).await
    }

    fn count_lost_messages(&self, messages: u64) {
        metrics::LOG_MESSAGES_LOST.add(messages, &[self.stage.name]);
    }

    fn report_metrics(&self, positions: &[ConsumerPosition]) {
        // A gauge is exact up to 2^53 messages.
        let exact = |messages: u64| f64::from(u32::try_from(messages).unwrap_or(u32::MAX));
        let waiting = positions.iter().map(|position| position.waiting).sum();
        metrics::MESSAGES_WAITING.set(exact(waiting), &[self.stage.name]);
        for position in positions.iter().filter(|one| one.stream == EVENTS) {
            metrics::LOG_HEADROOM.set(exact(position.headroom()), &[self.stage.name]);
        }
    }
}
