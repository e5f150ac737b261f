//! A replica of a stage in a simulation, which decides itself what is delivered when.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::handler::Handler;
use super::received_message::ReceivedMessage;
use super::worker::{ConsumeSettings, Worker};
use crate::connection::Bus;
use crate::connection::backend::{Backend, Delivery};
use crate::topology::Stage;

/// One replica of a stage, without the loop that pulls messages.
#[derive(Debug)]
pub struct SimulatedReplica<H> {
    worker: Worker<H>,
    backend: Arc<dyn Backend>,
}

impl<H: Handler> SimulatedReplica<H> {
    /// Makes a replica.
    #[must_use]
    pub fn new(
        backend: Arc<dyn Backend>,
        bus: Bus,
        stage: &'static Stage,
        handler: H,
        settings: ConsumeSettings,
    ) -> Self {
        let stopping = CancellationToken::new();
        let worker = Worker::new(bus, stage, handler, settings, stage.ack_wait, stopping);
        Self { worker, backend }
    }

    /// Processes one message as the consume loop does; dropping the future simulates the death of the process.
    pub async fn process(&self, delivery: Delivery) {
        let message = ReceivedMessage::simulated(self.backend.clone(), delivery);
        self.worker.process(message).await;
    }
}
