//! Acknowledgement of messages.

use std::time::Duration;

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
pub(crate) struct Acknowledger {
    pub(crate) bus: Bus,
    pub(crate) stopping: CancellationToken,
}

impl Acknowledger {
    /// Acknowledges a message and returns its outcome; an acknowledgement that is lost with the connection is repeated,
    /// because the work would be.
    ///
    /// The attempts are limited: a server that was restarted may have forgotten the delivery, as after its disk was full,
    /// and would never confirm.
    pub(crate) async fn acknowledge(
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
