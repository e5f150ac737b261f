//! The consume loop: one message a pull, one limit for all streams of a stage, and a drain that loses nothing.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use futures_util::StreamExt as _;
use sluice_domain::{Backoff, Classify as _};
use tokio::sync::{OwnedSemaphorePermit, RwLock, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::connect::Bus;
use crate::error::Error;
use crate::handler::{BoxError, Handler};
use crate::incoming::Incoming;
use crate::settle::{Worker, random, with_heartbeat};
use crate::topology::Stage;

/// How long one pull waits for a message.
const PULL_EXPIRY: Duration = Duration::from_secs(2);
/// How long the server may take to say that there is no message.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The delays after pulls that failed.
const PULL_BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

/// How a stage works through its messages.
#[derive(Debug, Clone, Copy)]
pub struct ConsumeSettings {
    /// How many messages are worked on at once, those of all its streams together.
    pub concurrency: usize,
    /// How long one message may take, its facts and records included.
    pub handler_timeout: Duration,
}

impl Bus {
    /// Works through the messages of a stage until it is told to stop, then finishes what it has.
    ///
    /// Dropping the future drops the work that is under way; its messages come again.
    ///
    /// # Errors
    /// Streams or consumers that are missing or not as this version needs them.
    pub async fn consume<H: Handler>(
        &self,
        stage: &'static Stage,
        handler: H,
        settings: ConsumeSettings,
        stopping: CancellationToken,
    ) -> Result<(), Error> {
        let Some(consumers) = self.begin(stage, &stopping).await? else {
            return Ok(());
        };
        let worker = Arc::new(Worker {
            bus: self.clone(),
            stage,
            handler,
            settings,
            ack_wait: shortest(stage, &consumers),
            alone: RwLock::new(()),
            stopping: stopping.clone(),
        });
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
        tracing::info!(stage = stage.name, "working");
        while let Some(ended) = pullers.join_next().await {
            log_task_error(stage, ended);
        }
        self.flush().await;
        Ok(())
    }

    /// Finds the consumers of a stage; nothing if it is told to stop before.
    ///
    /// A server that is away at the start is waited for, as it is later; a topology that is not as needed is not.
    async fn begin(
        &self,
        stage: &'static Stage,
        stopping: &CancellationToken,
    ) -> Result<Option<Vec<PullConsumer>>, Error> {
        for failures in 1.. {
            let found = async {
                self.verify(stage).await?;
                self.consumers(stage).await
            };
            match found.await {
                Err(error) if error.class().is_outage() => {
                    tracing::warn!(stage = stage.name, %error, "cannot begin; trying again");
                }
                found => return found.map(Some),
            }
            tokio::select! {
                () = tokio::time::sleep(PULL_BACKOFF.delay(failures, random())) => {}
                () = stopping.cancelled() => break,
            }
        }
        Ok(None)
    }

    /// Returns after how long silent work of a stage is given to somebody else, as it is provisioned.
    ///
    /// # Errors
    /// A consumer that was not provisioned, or a server that does not answer.
    pub async fn ack_wait(&self, stage: &Stage) -> Result<Duration, Error> {
        Ok(shortest(stage, &self.consumers(stage).await?))
    }

    async fn consumers(&self, stage: &Stage) -> Result<Vec<PullConsumer>, Error> {
        let mut consumers = Vec::new();
        for (stream, _) in stage.sources() {
            let what = format!("{stream}/{}", stage.name);
            let consumer = self
                .server()?
                .get_consumer_from_stream(stage.name, stream)
                .await
                .map_err(Error::server("find consumer", what))?;
            consumers.push(consumer);
        }
        Ok(consumers)
    }
}

fn shortest(stage: &Stage, consumers: &[PullConsumer]) -> Duration {
    consumers
        .iter()
        .map(|consumer| consumer.cached_info().config.ack_wait)
        .min()
        .unwrap_or(stage.ack_wait)
}

struct Puller<H> {
    worker: Arc<Worker<H>>,
    consumer: PullConsumer,
    permits: Arc<Semaphore>,
    stopping: CancellationToken,
}

impl<H: Handler> Puller<H> {
    async fn run(self) {
        let stage = self.worker.stage;
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
                    self.pause(PULL_BACKOFF.delay(failures, random())).await;
                }
            }
        }
        while let Some(ended) = tasks.join_next().await {
            log_task_error(stage, ended);
        }
    }

    /// Takes the next message together with a place to work on it.
    ///
    /// The place comes first, so that nothing is pulled that would only wait here. Where no message is ready it is
    /// given back: an idle stream must not take places from a busy one.
    async fn next(&self) -> Result<Option<(Incoming, OwnedSemaphorePermit)>, BoxError> {
        // A pull that is queued while the connection is down would be answered after it was given up.
        if self.worker.bus.server()?.client().connection_state() != State::Connected {
            self.pause(PULL_BACKOFF.delay(1, random())).await;
            return Ok(None);
        }
        let Some(permit) = self.permit().await else {
            return Ok(None);
        };
        let ready = self.consumer.fetch().max_messages(1).messages().await?;
        if let Some(message) = tokio::time::timeout(ANSWER_LIMIT, one(ready)).await?? {
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
        let Some(message) = one(waiting).await? else {
            return Ok(None);
        };
        // Others may have become busy meanwhile; this one is next, and shows that it is alive until then.
        match with_heartbeat(&message, self.worker.ack_wait, self.permit()).await {
            Some(permit) => Ok(self.unless_stopping(message, permit).await),
            None => {
                self.worker.give_back(&message).await;
                Ok(None)
            }
        }
    }

    /// Waits for a place to work, unless it is time to stop.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => None,
            permit = self.permits.clone().acquire_owned() => permit.ok(),
        }
    }

    async fn unless_stopping(
        &self,
        message: Incoming,
        permit: OwnedSemaphorePermit,
    ) -> Option<(Incoming, OwnedSemaphorePermit)> {
        if self.stopping.is_cancelled() {
            self.worker.give_back(&message).await;
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

/// Runs a pull of one message to its end: a message left in it would be missing until `ack_wait` has passed.
async fn one(mut batch: pull::Batch) -> Result<Option<Incoming>, BoxError> {
    let message = batch.next().await.transpose()?;
    message.map(Incoming::new).transpose()
}

/// A task catches what its handler does; if it ends otherwise, its message comes again.
fn log_task_error(stage: &Stage, ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(stage = stage.name, %error, "a task of the consume loop ended unexpectedly");
    }
}
