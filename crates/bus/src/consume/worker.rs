//! One message: decode it, run the handler, publish, record, acknowledge; a failure goes to [`FailedMessages`].

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use sluice_events::{Decode as _, Message as Payload};
use sluice_service::crash;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::acknowledge::Acknowledger;
use super::failed_messages::FailedMessages;
use super::handler::{Failure, Handler, Outcome, Output};
use super::heartbeat::with_heartbeat;
use super::isolation::Isolation;
use super::message_metrics::MessageMetrics;
use super::received_message::ReceivedMessage;
use crate::connection::Bus;
use crate::connection::backend::Acknowledgement;
use crate::connection::headers::{continue_trace, link_trace};
use crate::streams::cause::Cause;
use crate::topology::Stage;

/// How a stage processes its messages.
#[derive(Debug, Clone, Copy)]
pub struct ConsumeSettings {
    /// The most messages that are processed at once, those of all streams together.
    pub concurrency: usize,
    /// How long one message may take, with its facts and records.
    pub handler_timeout: Duration,
}

#[derive(Debug, Error)]
enum Fault {
    #[error("the handler panicked: {0}")]
    Panicked(String),
    #[error("not finished within {0:?}")]
    TimedOut(Duration),
    #[error("none of {0} attempts came to an end; the process may have died each time")]
    Exhausted(u32),
}

/// Processes the messages of one stage; shared by its tasks.
#[derive(Debug)]
pub(crate) struct Worker<H> {
    handler: H,
    settings: ConsumeSettings,
    /// How long the server waits for an acknowledgement, as provisioned.
    pub(crate) ack_wait: Duration,
    isolation: Isolation,
    pub(crate) failed: FailedMessages,
}

impl<H: Handler> Worker<H> {
    pub(crate) fn new(
        bus: Bus,
        stage: &'static Stage,
        handler: H,
        settings: ConsumeSettings,
        ack_wait: Duration,
        stopping: CancellationToken,
    ) -> Self {
        Self {
            handler,
            settings,
            ack_wait,
            isolation: Isolation::default(),
            failed: FailedMessages {
                acknowledger: Acknowledger { bus, stopping },
                stage,
            },
        }
    }

    pub(crate) const fn bus(&self) -> &Bus {
        &self.failed.acknowledger.bus
    }

    pub(crate) const fn stage(&self) -> &'static Stage {
        self.failed.stage
    }

    /// Processes one message; a message that cannot be acknowledged is delivered again.
    pub(crate) async fn process(&self, message: ReceivedMessage) {
        let cause = message.cause(self.stage().max_attempts);
        let span = self.span(&message, &cause);
        let in_flight = MessageMetrics::new(self.stage().name, message.delivered);
        let outcome = async {
            let attempt = self.attempt(&message, &cause);
            match with_heartbeat(&message, self.ack_wait, attempt).await {
                Ok(()) => {
                    crash::point("bus.finished");
                    let acknowledger = &self.failed.acknowledger;
                    acknowledger
                        .acknowledge(&message, Acknowledgement::Ack, "done")
                        .await
                }
                Err(failure) => {
                    let resolved = self.failed.resolve(&message, &cause, failure);
                    with_heartbeat(&message, self.ack_wait, resolved).await
                }
            }
        }
        .instrument(span)
        .await;
        in_flight.finish(outcome);
    }

    /// Makes the span of a message. Ticks and redrives begin a new trace with a link; others continue the trace of the
    /// message.
    fn span(&self, message: &ReceivedMessage, cause: &Cause) -> tracing::Span {
        let span = tracing::info_span!(
            parent: None,
            "stage",
            otel.name = H::SPAN,
            otel.kind = "consumer",
            stage = self.stage().name,
            event.id = %cause.id,
            event.r#type = message.type_name(),
            delivery.attempt = cause.attempt,
        );
        if message.subject.starts_with("sluice.do.redrive.") || message.is_tick() {
            link_trace(&span, &message.headers);
        } else {
            continue_trace(&span, &message.headers);
        }
        span
    }

    async fn attempt(&self, message: &ReceivedMessage, cause: &Cause) -> Result<(), Failure> {
        if cause.attempt > self.stage().max_attempts {
            return Err(Failure::permanent(Fault::Exhausted(cause.attempt - 1)));
        }
        let payload = Payload::decode(&message.type_name(), &message.payload);
        let payload = payload.map_err(Failure::permanent)?;
        let input = H::Input::decode(payload).map_err(Failure::permanent)?;
        let _guard = self.isolation.enter(message.delivered).await;
        // Boxed: the nested futures of a stage are deeper than the compiler computes layouts for.
        let handled = self.handler.handle(input, cause).boxed();
        let work = async {
            match handled.await {
                Ok(outcome) => self.finish(outcome, cause).await,
                Err(error) => Err(Failure::of(error)),
            }
        };
        let limit = self.settings.handler_timeout;
        match tokio::time::timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => {
                let fault = Fault::Panicked(panic_message(panic.as_ref()));
                tracing::error!("{fault}");
                Err(Failure::transient(fault))
            }
            Err(_) => Err(Failure::transient(Fault::TimedOut(limit))),
        }
    }

    /// Publishes, then records: in this order a crash repeats work and loses none.
    async fn finish(&self, outcome: Outcome, cause: &Cause) -> Result<(), Failure> {
        crash::point("bus.handled");
        let bus = self.bus();
        for output in outcome.outputs {
            match output {
                Output::Fact { event, occurrence } => {
                    let occurrence = occurrence.as_deref().unwrap_or(&cause.occurrence);
                    let published = bus.publish(&event, cause, occurrence).await;
                    published.map_err(Failure::of)?;
                    crash::point_of("bus.fact_published", event.name());
                }
                Output::Command {
                    command,
                    id,
                    message_id,
                } => {
                    let published = bus.command_once(&command, cause, id, &message_id).await;
                    published.map_err(Failure::of)?;
                    crash::point("bus.command_published");
                }
                Output::CommandUnlessPending {
                    command,
                    message_id,
                } => {
                    let published = bus.command_unless_pending(&command, cause, &message_id);
                    published.await.map_err(Failure::of)?;
                }
            }
        }
        for record in outcome.records {
            record.await?;
            crash::point("bus.recorded");
        }
        Ok(())
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
