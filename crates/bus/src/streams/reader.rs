//! Reading the messages that a stream holds now, completely or with an error.

use std::ops::ControlFlow;
use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::jetstream::consumer::{Consumer, DeliverPolicy, PullConsumer};
use async_nats::jetstream::stream::Stream;
use futures_util::StreamExt as _;

use crate::connection::Bus;
use crate::error::Error;

/// How long the next message may take: a message that was counted may expire before it is delivered.
const STALL_LIMIT: Duration = Duration::from_secs(10);

impl Bus {
    /// Returns a stream without asking the server for its state.
    pub(crate) async fn stream_handle(&self, stream: &str) -> Result<Stream<()>, Error> {
        let handle = self.server()?.get_stream_no_info(stream).await;
        handle.map_err(Error::server("open stream", stream))
    }

    /// Returns the durable consumer of a stage with its current state.
    pub(crate) async fn durable_consumer(
        &self,
        stage: &str,
        stream: &str,
    ) -> Result<PullConsumer, Error> {
        let consumer = self.server()?.get_consumer_from_stream(stage, stream).await;
        consumer.map_err(Error::server("find consumer", format!("{stream}/{stage}")))
    }

    /// Makes an ephemeral consumer that reads the messages of a subject filter in order.
    pub(crate) async fn ordered_consumer(
        &self,
        stream: &str,
        filter: &str,
        deliver_policy: DeliverPolicy,
    ) -> Result<Consumer<OrderedConfig>, Error> {
        let config = OrderedConfig {
            // Permissions compare subjects: only the request for a named consumer has the filter in its subject.
            name: Some(format!("reader-{}", uuid::Uuid::new_v4().simple())),
            filter_subject: filter.to_owned(),
            deliver_policy,
            ..Default::default()
        };
        self.server()?
            .create_consumer_on_stream(config, stream)
            .await
            .map_err(Error::server("read", filter))
    }
}

/// Passes on the messages that were pending when the consumer was made, oldest first, until `visit` breaks.
pub(crate) async fn drain_pending(
    consumer: Consumer<OrderedConfig>,
    action: &'static str,
    what: &str,
    mut visit: impl FnMut(&Message) -> ControlFlow<()>,
) -> Result<(), Error> {
    if consumer.cached_info().num_pending == 0 {
        return Ok(());
    }
    let mut messages = consumer
        .messages()
        .await
        .map_err(Error::server(action, what))?;
    loop {
        let message = tokio::time::timeout(STALL_LIMIT, messages.next())
            .await
            .map_err(Error::server(action, what))?
            .ok_or("the listing ended early")
            .map_err(Error::server(action, what))?
            .map_err(Error::server(action, what))?;
        let info = message.info().map_err(Error::server(action, what))?;
        if visit(&message).is_break() || info.pending == 0 {
            return Ok(());
        }
    }
}
