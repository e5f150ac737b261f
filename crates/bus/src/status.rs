//! How far behind each stage is, and how full each stream.

use std::cmp::Reverse;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;

use crate::connect::Bus;
use crate::error::Error;
use crate::limits::drops_oldest;
use crate::provision::limit_of;
use crate::topology::{BACKUP_ORDER, STAGES, Stage};

/// How long a worker takes at most to ask again.
const BETWEEN_REQUESTS: Duration = Duration::from_millis(100);

/// The backlog of a stage in one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageStatus {
    /// The stage.
    pub stage: &'static str,
    /// The stream.
    pub stream: &'static str,
    /// Messages that nobody has taken up yet.
    pub waiting: u64,
    /// Messages being worked on, or left by a process that died.
    pub in_flight: u64,
    /// Messages that the scheduler keeps for a later attempt; told with the stream of its schedules.
    pub later: u64,
    /// What the last of those waits for, empty where there is none.
    pub waits_for: String,
    /// Whether some worker asks for messages, or has some.
    pub has_worker: bool,
}

/// How full a stream is, buckets and object stores among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamUsage {
    /// The stream.
    pub stream: &'static str,
    /// How many bytes it takes.
    pub bytes: u64,
    /// How many it may take; nothing where it was provisioned without a limit.
    pub limit_bytes: Option<u64>,
    /// Whether it refuses what is new when it is full, instead of dropping what is oldest.
    pub refuses: bool,
}

impl StreamUsage {
    /// Returns how much of its limit it takes, in percent.
    #[must_use]
    pub fn percent(&self) -> u64 {
        let limit = self.limit_bytes.unwrap_or(u64::MAX).max(1);
        // A share of a number fits into a number.
        u64::try_from(u128::from(self.bytes) * 100 / u128::from(limit)).unwrap_or(u64::MAX)
    }
}

impl Bus {
    /// Returns how full each stream is, the fullest first.
    ///
    /// # Errors
    /// A stream that was not provisioned, or a server that does not answer.
    pub async fn stream_usage(&self) -> Result<Vec<StreamUsage>, Error> {
        let mut all = Vec::new();
        for stream in BACKUP_ORDER {
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
                refuses: !drops_oldest(stream),
            });
        }
        all.sort_by_key(|usage| Reverse(usage.percent()));
        Ok(all)
    }

    /// Returns the backlog of every stage.
    ///
    /// # Errors
    /// A consumer that was not provisioned, or a server that does not answer.
    pub async fn stage_status(&self) -> Result<Vec<StageStatus>, Error> {
        let mut all = Vec::new();
        for stage in STAGES {
            all.extend(self.status_of(stage).await?);
        }
        Ok(all)
    }

    /// Returns the stages that no worker asks for work, of those of which none did in a status that was just taken.
    ///
    /// # Errors
    /// As [`Bus::stage_status`].
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
        // Between two of its requests a worker has none under way.
        tokio::time::sleep(BETWEEN_REQUESTS).await;
        let mut stopped = Vec::new();
        for stage in idle {
            if is_idle(&self.status_of(stage).await?, stage) {
                stopped.push(stage.name);
            }
        }
        Ok(stopped)
    }

    /// Returns the backlog of one stage.
    ///
    /// # Errors
    /// As [`Bus::stage_status`].
    pub async fn status_of(&self, stage: &Stage) -> Result<Vec<StageStatus>, Error> {
        let mut all = Vec::new();
        for (stream, _) in stage.sources() {
            let what = format!("{stream}/{}", stage.name);
            let consumer: PullConsumer = self
                .server()?
                .get_consumer_from_stream(stage.name, stream)
                .await
                .map_err(Error::server("find consumer", what))?;
            let info = consumer.cached_info();
            let in_flight = u64::try_from(info.num_ack_pending).unwrap_or(0);
            let mut waiting = info.num_pending;
            let (mut later, mut waits_for) = (0, String::new());
            // After the consumers: whoever puts a message off stores the copy before the acknowledgement.
            if stream == stage.schedules {
                let put_off = self.put_off_copies(stage).await?;
                later = put_off.later;
                waiting = waiting.max(put_off.due.saturating_sub(in_flight));
            }
            if later > 0 {
                waits_for = self.waits_for(&format!("retry.{}", stage.name)).await?;
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
