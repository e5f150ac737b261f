//! What is told of work while it goes on: plain messages that nothing stores, for whoever listens at the moment.

use bytes::Bytes;

use crate::backend::Link;
use crate::connect::Bus;
use crate::permissions::PROGRESS;

impl Bus {
    /// Says whether anybody may listen; nobody does in a simulation.
    #[must_use]
    pub const fn has_listeners(&self) -> bool {
        matches!(self.link, Link::Server(_))
    }

    /// Tells how something goes on; whether anybody hears it makes no difference to the work.
    pub async fn tell_progress(&self, topic: &str, body: Bytes) {
        let Link::Server(context) = &self.link else {
            return;
        };
        let subject = format!("{PROGRESS}{topic}");
        // A connection that is down would have the work wait.
        if self.is_connected()
            && let Err(error) = context.client().publish(subject, body).await
        {
            tracing::debug!(%error, topic, "nobody is told how it goes on");
        }
    }
}
