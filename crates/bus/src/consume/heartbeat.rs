//! The sign of life that the server gets while a message is worked on.

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::received_message::ReceivedMessage;
use crate::connection::backend::Acknowledgement;

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
