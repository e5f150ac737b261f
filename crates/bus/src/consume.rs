//! The consume loop: it pulls one message at a time, under one concurrency limit for all streams of a stage, and finishes
//! its work before it stops.

mod acknowledge;
mod failed_messages;
pub(crate) mod handler;
mod heartbeat;
mod isolation;
mod jitter;
mod message_metrics;
mod received_message;
pub(crate) mod simulated_replica;
pub(crate) mod worker;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{PullConsumer, pull};
use futures_util::StreamExt as _;
use sluice_domain::{Backoff, Classify as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use self::handler::Handler;
use self::heartbeat::with_heartbeat;
use self::jitter::jitter;
use self::received_message::ReceivedMessage;
use self::worker::{ConsumeSettings, Worker};
use crate::connection::Bus;
use crate::error::{BoxError, Error};
use crate::topology::{Stage, sources_of};

/// How long a pull waits for a message.
const PULL_EXPIRY: Duration = Duration::from_secs(2);
/// How long the server may take to answer that no message is available.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The delays after pulls that failed.
const PULL_BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

impl Bus {
    /// Processes the messages of a stage until `stopping` is cancelled, then finishes those that were received.
    ///
    /// Dropping the future drops the work under way; its messages are delivered again.
    ///
    /// # Errors
    /// Streams or consumers that are missing or differ from what this version needs.
    pub async fn consume<H: Handler>(
        &self,
        stage: &'static Stage,
        handler: H,
        settings: ConsumeSettings,
        stopping: CancellationToken,
    ) -> Result<(), Error> {
        let Some(consumers) = self.connect_stage(stage, &stopping).await? else {
            return Ok(());
        };
        let ack_wait = shortest_ack_wait(stage, &consumers);
        let stop = stopping.clone();
        let worker = Worker::new(self.clone(), stage, handler, settings, ack_wait, stop);
        let worker = Arc::new(worker);
        let permits = Arc::new(Semaphore::new(settings.concurrency.max(1)));
        let mut pullers = JoinSet::new();
        for consumer in consumers {
            let puller = Puller {
                worker: worker.clone(),
                consumer,
                permits: permits.clone(),
                stopping: stopping.clone(),
            };
            pullers.spawn(puller.run());
        }
        tracing::info!(stage = stage.name, "consuming");
        while let Some(ended) = pullers.join_next().await {
            log_task_error(stage, ended);
        }
        self.flush().await;
        Ok(())
    }

    /// Returns the consumers of a stage once they are verified; nothing if `stopping` is cancelled before.
    ///
    /// An outage at the start is waited out, as it is later; a topology that differs is an error at once.
    async fn connect_stage(
        &self,
        stage: &'static Stage,
        stopping: &CancellationToken,
    ) -> Result<Option<Vec<PullConsumer>>, Error> {
        for failures in 1.. {
            let connected = async {
                self.verify(stage).await?;
                self.stage_consumers(stage).await
            };
            match connected.await {
                Err(error) if error.class().is_outage() => {
                    tracing::warn!(stage = stage.name, %error, "cannot start consuming; trying again");
                }
                result => return result.map(Some),
            }
            tokio::select! {
                () = tokio::time::sleep(PULL_BACKOFF.delay(failures, jitter())) => {}
                () = stopping.cancelled() => break,
            }
        }
        Ok(None)
    }

    /// Returns how long the server waits for an acknowledgement of a stage, as provisioned.
    ///
    /// # Errors
    /// A consumer that is not provisioned.
    pub async fn ack_wait(&self, stage: &Stage) -> Result<Duration, Error> {
        let consumers = self.stage_consumers(stage).await?;
        Ok(shortest_ack_wait(stage, &consumers))
    }

    async fn stage_consumers(&self, stage: &Stage) -> Result<Vec<PullConsumer>, Error> {
        let mut consumers = Vec::new();
        for (stream, _) in sources_of(stage) {
            consumers.push(self.durable_consumer(stage.name, stream).await?);
        }
        Ok(consumers)
    }
}

fn shortest_ack_wait(stage: &Stage, consumers: &[PullConsumer]) -> Duration {
    consumers
        .iter()
        .map(|consumer| consumer.cached_info().config.ack_wait)
        .min()
        .unwrap_or(stage.ack_wait)
}

/// Pulls the messages of one stream.
struct Puller<H> {
    worker: Arc<Worker<H>>,
    consumer: PullConsumer,
    permits: Arc<Semaphore>,
    stopping: CancellationToken,
}

impl<H: Handler> Puller<H> {
    async fn run(self) {
        let stage = self.worker.stage();
        let mut tasks = JoinSet::new();
        let mut failures = 0;
        while !self.stopping.is_cancelled() {
            while let Some(ended) = tasks.try_join_next() {
                log_task_error(stage, ended);
            }
            match self.next().await {
                Ok(taken) => {
                    failures = 0;
                    if let Some((message, permit)) = taken {
                        let worker = self.worker.clone();
                        tasks.spawn(async move {
                            worker.process(message).await;
                            drop(permit);
                        });
                    }
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(stage = stage.name, %error, "cannot pull; trying again");
                    self.pause(PULL_BACKOFF.delay(failures, jitter())).await;
                }
            }
        }
        while let Some(ended) = tasks.join_next().await {
            log_task_error(stage, ended);
        }
    }

    /// Pulls the next message together with a permit to process it.
    ///
    /// The permit comes first, so that no message is pulled that would only wait here. Where no message is available the
    /// permit is returned, so that an idle stream takes none from a busy one.
    async fn next(&self) -> Result<Option<(ReceivedMessage, OwnedSemaphorePermit)>, BoxError> {
        // A pull that is queued while disconnected would be answered after it has timed out.
        if !self.worker.bus().is_connected() {
            self.pause(PULL_BACKOFF.delay(1, jitter())).await;
            return Ok(None);
        }
        let Some(permit) = self.permit().await else {
            return Ok(None);
        };
        let ready = self.consumer.fetch().max_messages(1).messages().await?;
        if let Some(message) = tokio::time::timeout(ANSWER_LIMIT, receive_one(ready)).await?? {
            return Ok(self.unless_stopping(message, permit).await);
        }
        drop(permit);
        let waiting = self
            .consumer
            .batch()
            .max_messages(1)
            .expires(PULL_EXPIRY)
            .messages()
            .await?;
        let Some(message) = receive_one(waiting).await? else {
            return Ok(None);
        };
        // The permits may be taken by now; the heartbeat keeps the message here until one is free.
        match with_heartbeat(&message, self.worker.ack_wait, self.permit()).await {
            Some(permit) => Ok(self.unless_stopping(message, permit).await),
            None => {
                self.worker.failed.give_back(&message).await;
                Ok(None)
            }
        }
    }

    /// Waits for a permit; returns nothing once the stage is stopping.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => None,
            permit = self.permits.clone().acquire_owned() => permit.ok(),
        }
    }

    async fn unless_stopping(
        &self,
        message: ReceivedMessage,
        permit: OwnedSemaphorePermit,
    ) -> Option<(ReceivedMessage, OwnedSemaphorePermit)> {
        if self.stopping.is_cancelled() {
            self.worker.failed.give_back(&message).await;
            return None;
        }
        Some((message, permit))
    }

    async fn pause(&self, delay: Duration) {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = self.stopping.cancelled() => {}
        }
    }
}

/// Awaits the message of a pull: a message left in the batch would not be delivered again before `ack_wait`.
async fn receive_one(mut batch: pull::Batch) -> Result<Option<ReceivedMessage>, BoxError> {
    let message = batch.next().await.transpose()?;
    message.map(ReceivedMessage::new).transpose()
}

/// Logs a task that was cancelled or panicked outside of its handler; its message is delivered again.
fn log_task_error(stage: &Stage, ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(stage = stage.name, %error, "a task of the consume loop ended unexpectedly");
    }
}
