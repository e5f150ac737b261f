//! The backlog of each stage, and the usage of each stream.

use std::cmp::Reverse;
use std::time::Duration;

use crate::admin::limits::{drops_oldest, limit_of};
use crate::connection::Bus;
use crate::error::Error;
use crate::topology::{STAGES, Stage, backup_order, sources_of};

/// The longest time between two pull requests of a worker.
const BETWEEN_PULLS: Duration = Duration::from_millis(100);

/// The backlog of a stage in one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageStatus {
    /// The stage.
    pub stage: &'static str,
    /// The stream.
    pub stream: &'static str,
    /// Messages that were not delivered yet.
    pub waiting: u64,
    /// Messages that were delivered and are not acknowledged.
    pub in_flight: u64,
    /// Messages that the scheduler keeps for a retry; counted with the stream of the stage's schedules only.
    pub later: u64,
    /// Why the last of those was delayed, empty where there is none.
    pub waits_for: String,
    /// Whether a worker waits for messages or works on some.
    pub has_worker: bool,
}

/// The usage of a stream, which may be that of a bucket or an object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamUsage {
    /// The stream.
    pub stream: &'static str,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its limit in bytes, if it has one.
    pub limit_bytes: Option<u64>,
    /// Whether it rejects new messages when it is full, instead of dropping the oldest.
    pub rejects_when_full: bool,
}

impl StreamUsage {
    /// Returns its usage in percent of its limit.
    #[must_use]
    pub fn percent(&self) -> u64 {
        let limit = self.limit_bytes.unwrap_or(u64::MAX).max(1);
        u64::try_from(u128::from(self.bytes) * 100 / u128::from(limit)).unwrap_or(u64::MAX)
    }
}

impl Bus {
    /// Returns the usage of each stream, the fullest first.
    ///
    /// # Errors
    /// A stream that is not provisioned.
    pub async fn stream_usage(&self) -> Result<Vec<StreamUsage>, Error> {
        let mut all = Vec::new();
        for stream in backup_order() {
            let info = self
                .stream_info(stream)
                .await?
                .ok_or_else(|| Error::Missing {
                    what: stream.to_owned(),
                })?;
            all.push(StreamUsage {
                stream,
                bytes: info.state.bytes,
                limit_bytes: limit_of(&info.config),
                rejects_when_full: !drops_oldest(stream),
            });
        }
        all.sort_by_key(|usage| Reverse(usage.percent()));
        Ok(all)
    }

    /// Returns the backlog of every stage.
    ///
    /// # Errors
    /// A consumer that is not provisioned.
    pub async fn stage_status(&self) -> Result<Vec<StageStatus>, Error> {
        let mut all = Vec::new();
        for stage in STAGES {
            all.extend(self.status_of(stage).await?);
        }
        Ok(all)
    }

    /// Returns the stages without a worker, given a status that was just read: of those without one there, it reads the
    /// status again.
    pub async fn stopped_stages(&self, before: &[StageStatus]) -> Result<Vec<&'static str>, Error> {
        let is_idle = |all: &[StageStatus], stage: &Stage| {
            let mut own = all.iter().filter(|status| status.stage == stage.name);
            own.all(|status| !status.has_worker)
        };
        let idle: Vec<&Stage> = STAGES
            .into_iter()
            .filter(|stage| is_idle(before, stage))
            .collect();
        if idle.is_empty() {
            return Ok(Vec::new());
        }
        // A worker has no pull request under way for a moment.
        tokio::time::sleep(BETWEEN_PULLS).await;
        let mut stopped = Vec::new();
        for stage in idle {
            if is_idle(&self.status_of(stage).await?, stage) {
                stopped.push(stage.name);
            }
        }
        Ok(stopped)
    }

    /// Returns the backlog of one stage.
    pub async fn status_of(&self, stage: &Stage) -> Result<Vec<StageStatus>, Error> {
        let mut all = Vec::new();
        for (stream, _) in sources_of(stage) {
            let consumer = self.durable_consumer(stage.name, stream).await?;
            let info = consumer.cached_info();
            let in_flight = u64::try_from(info.num_ack_pending).unwrap_or(0);
            let mut waiting = info.num_pending;
            let (mut later, mut waits_for) = (0, String::new());
            // After the consumers: a worker stores the delayed copy before it acknowledges the original.
            if stream == stage.schedules {
                let copies = self.count_delayed_copies(stage).await?;
                later = copies.scheduled;
                waiting = waiting.max(copies.fired.saturating_sub(in_flight));
            }
            if later > 0 {
                let prefix = format!("retry.{}", stage.name);
                waits_for = self.last_delay_reason(&prefix).await?;
            }
            all.push(StageStatus {
                stage: stage.name,
                stream,
                waiting,
                in_flight,
                later,
                waits_for,
                has_worker: info.num_waiting > 0 || info.num_ack_pending > 0,
            });
        }
        Ok(all)
    }
}
