//! Reads what a stream holds now, to its end; never part of it in silence.

use std::ops::ControlFlow;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::Consumer;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use futures_util::StreamExt as _;

use crate::error::Error;

/// How long the next message may take. What was counted may expire before it is delivered.
const STALL: Duration = Duration::from_secs(10);

/// Hands over the messages that the consumer had before it when it was made, oldest first, unless `take` has enough.
pub(crate) async fn to_the_end(
    consumer: Consumer<OrderedConfig>,
    action: &'static str,
    what: &str,
    mut take: impl FnMut(&Message) -> ControlFlow<()>,
) -> Result<(), Error> {
    if consumer.cached_info().num_pending == 0 {
        return Ok(());
    }
    let mut messages = consumer
        .messages()
        .await
        .map_err(Error::server(action, what))?;
    loop {
        let message = tokio::time::timeout(STALL, messages.next())
            .await
            .map_err(Error::server(action, what))?
            .ok_or("the listing ended early")
            .map_err(Error::server(action, what))?
            .map_err(Error::server(action, what))?;
        let info = message.info().map_err(Error::server(action, what))?;
        if take(&message).is_break() || info.pending == 0 {
            return Ok(());
        }
    }
}
