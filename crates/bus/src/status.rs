//! How far behind each stage is.

use crate::connect::Bus;
use crate::error::Error;
use crate::topology::{STAGES, Stage};
use async_nats::jetstream::consumer::PullConsumer;

/// The backlog of a stage in one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageStatus {
    /// The stage.
    pub stage: &'static str,
    /// The stream.
    pub stream: &'static str,
    /// Messages that nobody has taken up yet.
    pub waiting: u64,
    /// Messages being worked on, or waiting to be tried again.
    pub in_flight: u64,
    /// Messages that the scheduler keeps for a later attempt; told with the stream of its schedules.
    pub later: u64,
    /// What the last of those waits for, empty where there is none.
    pub waits_for: String,
}

impl Bus {
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

    /// Returns the backlog of one stage.
    ///
    /// # Errors
    /// As [`Bus::stage_status`].
    pub async fn status_of(&self, stage: &Stage) -> Result<Vec<StageStatus>, Error> {
        let mut all = Vec::new();
        for (stream, _) in stage.sources() {
            let copies = format!("retry.{}", stage.name);
            let keeps = stream == stage.schedules;
            let mut later = 0;
            if keeps {
                later = self.schedules(&copies).await?.len();
            }
            let what = format!("{stream}/{}", stage.name);
            let consumer: PullConsumer = self
                .server()?
                .get_consumer_from_stream(stage.name, stream)
                .await
                .map_err(Error::server("find consumer", what))?;
            let info = consumer.cached_info();
            // One that was at work a moment ago may have been put off meanwhile.
            if keeps && later == 0 && info.num_pending == 0 && info.num_ack_pending == 0 {
                later = self.schedules(&copies).await?.len();
            }
            let mut waits_for = String::new();
            if later > 0 {
                waits_for = self.waits_for(&copies).await?;
            }
            all.push(StageStatus {
                stage: stage.name,
                stream,
                waiting: info.num_pending,
                in_flight: u64::try_from(info.num_ack_pending).unwrap_or(0),
                later: u64::try_from(later).unwrap_or(u64::MAX),
                waits_for,
            });
        }
        Ok(all)
    }
}
