//! Acknowledgement of messages, and the heartbeat while they are worked on.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::received_message::ReceivedMessage;
use crate::connection::Bus;
use crate::connection::backend::Acknowledgement;

/// The attempts to acknowledge a message; after the last the server delivers it again, if it still has it.
const ATTEMPTS: usize = 3;
/// The interval at which a lost connection is checked.
const RECONNECT_CHECK: Duration = Duration::from_millis(200);

/// Acknowledges the messages of one stage.
#[derive(Debug, Clone)]
pub(crate) struct Settler {
    pub(crate) bus: Bus,
    pub(crate) stopping: CancellationToken,
}

impl Settler {
    /// Acknowledges a message and returns its outcome; an acknowledgement that is lost with the connection is repeated,
    /// because the work would be.
    ///
    /// The attempts are limited: a server that was restarted may have forgotten the delivery, as after its disk was full,
    /// and would never confirm.
    pub(crate) async fn settle(
        &self,
        message: &ReceivedMessage,
        how: Acknowledgement,
        outcome: &'static str,
    ) -> &'static str {
        for _ in 0..ATTEMPTS {
            match message.acknowledge(how).await {
                Ok(()) => return outcome,
                Err(error) => tracing::warn!(error, "an acknowledgement was lost"),
            }
            while !self.bus.is_connected() {
                tokio::select! {
                    () = self.stopping.cancelled() => return "unacknowledged",
                    () = tokio::time::sleep(RECONNECT_CHECK) => {}
                }
            }
        }
        "unacknowledged"
    }
}

/// Reports progress to the server until the work is done, so that it delivers the message to no other worker.
pub(crate) async fn with_heartbeat<T>(
    message: &ReceivedMessage,
    ack_wait: Duration,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    let mut beat = tokio::time::interval(ack_wait / 3);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat.tick().await;
    loop {
        tokio::select! {
            biased;
            result = &mut work => return result,
            _ = beat.tick() => {
                if let Err(error) = message.acknowledge(Acknowledgement::Progress).await {
                    tracing::warn!(error, "a heartbeat was lost");
                }
            }
        }
    }
}
