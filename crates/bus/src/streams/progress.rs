//! Progress of work under way: messages that no stream stores, for subscribers that are connected now.

use bytes::Bytes;

use crate::connection::{Bus, Link};
use crate::topology::PROGRESS;

impl Bus {
    /// Says whether progress can have subscribers; a simulation has none.
    #[must_use]
    pub const fn has_listeners(&self) -> bool {
        !self.is_simulated()
    }

    /// Publishes the progress of some work; a failure is logged only, and never holds up the work.
    pub async fn publish_progress(&self, topic: &str, body: Bytes) {
        let Link::Server(context) = &self.link else {
            return;
        };
        let subject = format!("{PROGRESS}{topic}");
        // While disconnected, the client would make the work wait.
        if self.is_connected()
            && let Err(error) = context.client().publish(subject, body).await
        {
            tracing::debug!(%error, topic, "failed to publish progress");
        }
    }
}
