//! The consume loop: one message a pull, one task a slot, and a drain that loses nothing.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use futures_util::StreamExt as _;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connect::Bus;
use crate::error::Error;
use crate::handler::Handler;
use crate::topology::Stage;

/// How long one pull waits for a message.
const PULL_EXPIRY: Duration = Duration::from_secs(2);
/// Longer than a pull, so that a message given back is not taken by a pull of the dying process.
const GIVE_BACK: Duration = Duration::from_secs(3);

/// How a stage works through its messages.
#[derive(Debug, Clone, Copy)]
pub struct ConsumeSettings {
    /// How many messages of each stream are worked on at once.
    pub concurrency: usize,
    /// How long one message may take.
    pub handler_timeout: Duration,
}

pub(crate) struct Worker<H> {
    pub(crate) bus: Bus,
    pub(crate) stage: &'static Stage,
    pub(crate) handler: Arc<H>,
    pub(crate) settings: ConsumeSettings,
    /// A message that came back twice runs alone, so that it takes no neighbours with it if it kills the process.
    pub(crate) alone: RwLock<()>,
}

impl Bus {
    /// Works through the messages of a stage until it is told to stop, then finishes what it has.
    ///
    /// # Errors
    /// Consumers that are missing or not as this version needs them.
    pub async fn consume<H: Handler>(
        &self,
        stage: &'static Stage,
        handler: H,
        settings: ConsumeSettings,
        stopping: CancellationToken,
    ) -> Result<(), Error> {
        self.verify(stage).await?;
        let worker = Arc::new(Worker {
            bus: self.clone(),
            stage,
            handler: Arc::new(handler),
            settings,
            alone: RwLock::new(()),
        });
        let slots = TaskTracker::new();
        for (stream, _) in stage.sources() {
            let consumer: PullConsumer = self
                .js
                .get_consumer_from_stream(stage.name, stream)
                .await
                .map_err(Error::server(
                    "find consumer",
                    format!("{stream}/{}", stage.name),
                ))?;
            for _ in 0..settings.concurrency {
                slots.spawn(slot(worker.clone(), consumer.clone(), stopping.clone()));
            }
        }
        slots.close();
        tracing::info!(stage = stage.name, "working");
        slots.wait().await;
        self.flush().await;
        Ok(())
    }
}

async fn slot<H: Handler>(
    worker: Arc<Worker<H>>,
    consumer: PullConsumer,
    stopping: CancellationToken,
) {
    while !stopping.is_cancelled() {
        match consumer
            .batch()
            .max_messages(1)
            .expires(PULL_EXPIRY)
            .messages()
            .await
        {
            Ok(batch) => pull(&worker, batch, &stopping).await,
            Err(error) => {
                tracing::warn!(stage = worker.stage.name, %error, "cannot pull; trying again");
                pause(&stopping).await;
            }
        }
    }
}

/// Runs a pull to its end: a message left in it would be missing until `ack_wait` has passed.
async fn pull<H: Handler>(
    worker: &Worker<H>,
    mut batch: pull::Batch,
    stopping: &CancellationToken,
) {
    while let Some(message) = batch.next().await {
        match message {
            Ok(message) if stopping.is_cancelled() => give_back(&message).await,
            Ok(message) => worker.process(message).await,
            Err(error) => {
                tracing::warn!(stage = worker.stage.name, %error, "a pull failed; trying again");
                pause(stopping).await;
                return;
            }
        }
    }
}

async fn give_back(message: &Message) {
    if let Err(error) = message.double_ack_with(AckKind::Nak(Some(GIVE_BACK))).await {
        tracing::warn!(
            error,
            "a message could not be given back; it comes again by itself"
        );
    }
}

async fn pause(stopping: &CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(1)) => {}
        () = stopping.cancelled() => {}
    }
}
