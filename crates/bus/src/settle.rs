//! One message: decode, handle, publish, record, acknowledge; or hand it to what becomes of unfinished work.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;
use sluice_domain::Class;
use sluice_events::{Decode as _, Message as Payload, headers};
use sluice_service::crash;
use thiserror::Error;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::backend::Settlement;
use crate::cause::{Cause, is_tick};
use crate::connect::Bus;
use crate::consume::ConsumeSettings;
use crate::envelope::header;
use crate::handler::{BoxError, Failure, Handler, Outcome, Output};
use crate::incoming::Incoming;
use crate::telemetry::{InFlight, continue_trace, link_trace};
use crate::topology::Stage;

/// From this delivery on a message runs alone: it may have killed the processes that had it before. Retries are copies,
/// so only those deliveries count that nobody settled.
const SUSPECT: i64 = 3;
/// How often an acknowledgement is tried; after that the message comes again if the server still has it.
const ACKNOWLEDGEMENTS: usize = 3;
/// How often a connection that is down is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug, Error)]
enum Fault {
    #[error("the handler panicked: {0}")]
    Panicked(String),
    #[error("not finished within {0:?}")]
    TimedOut(Duration),
    #[error("given up after {0} attempts, none of which came to an end")]
    Exhausted(u32),
}

impl Failure {
    fn transient(error: impl Into<BoxError>) -> Self {
        Self {
            class: Class::TRANSIENT,
            error: error.into(),
        }
    }

    fn permanent(error: impl Into<BoxError>) -> Self {
        Self {
            class: Class::Permanent,
            error: error.into(),
        }
    }
}

/// What the tasks of one stage share.
#[derive(Debug)]
pub(crate) struct Worker<H> {
    pub(crate) bus: Bus,
    pub(crate) stage: &'static Stage,
    pub(crate) handler: H,
    pub(crate) settings: ConsumeSettings,
    /// After how long without a sign of life the server gives a message to somebody else, as provisioned.
    pub(crate) ack_wait: Duration,
    /// Held for writing by a suspect, so that it takes no neighbours with it if it kills the process.
    pub(crate) alone: RwLock<()>,
    pub(crate) stopping: CancellationToken,
}

/// Keeps others out, or only suspects.
struct Turn<'a> {
    _shared: Option<RwLockReadGuard<'a, ()>>,
    _alone: Option<RwLockWriteGuard<'a, ()>>,
}

impl<H: Handler> Worker<H> {
    /// Settles one message; whatever cannot be settled comes again.
    pub(crate) async fn process(&self, message: Incoming) {
        let cause = Cause::of(&message, self.stage.max_attempts);
        let span = self.span(&message, &cause);
        let in_flight = InFlight::new(self.stage.name, message.delivered);
        let outcome = async {
            let attempt = self.attempt(&message, &cause);
            match with_heartbeat(&message, self.ack_wait, attempt).await {
                Ok(()) => {
                    crash::point("bus.finished");
                    self.acknowledge(&message, Settlement::Done, "done").await
                }
                Err(failure) => {
                    let settled = self.unfinished(&message, &cause, failure);
                    with_heartbeat(&message, self.ack_wait, settled).await
                }
            }
        }
        .instrument(span)
        .await;
        in_flight.settled(outcome);
    }

    /// Settles a message with whose outcome all is done; what is lost with the connection is said again, or the work
    /// would be repeated.
    ///
    /// A server that was started anew may not know the delivery any more, as after its disk was full; it would never
    /// confirm, and whoever waited for that would work no more.
    pub(crate) async fn acknowledge(
        &self,
        message: &Incoming,
        how: Settlement,
        told: &'static str,
    ) -> &'static str {
        for _ in 0..ACKNOWLEDGEMENTS {
            match message.settle(how).await {
                Ok(()) => return told,
                Err(error) => tracing::warn!(error, "an acknowledgement was lost"),
            }
            while !self.bus.is_connected() {
                tokio::select! {
                    () = self.stopping.cancelled() => return "unacknowledged",
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                }
            }
        }
        "unacknowledged"
    }

    /// Ticks and redrives begin a new trace with a link; everything else continues the one it came in.
    fn span(&self, message: &Incoming, cause: &Cause) -> tracing::Span {
        let type_name = header(Some(&message.headers), headers::TYPE).unwrap_or_default();
        let span = tracing::info_span!(
            parent: None,
            "stage",
            otel.name = H::SPAN,
            otel.kind = "consumer",
            stage = self.stage.name,
            event.id = %cause.id,
            event.r#type = type_name,
            delivery.attempt = cause.attempt,
        );
        let subject = &message.subject;
        if subject.starts_with("sluice.do.redrive.") || is_tick(subject) {
            link_trace(&span, Some(&message.headers));
        } else {
            continue_trace(&span, Some(&message.headers));
        }
        span
    }

    async fn attempt(&self, message: &Incoming, cause: &Cause) -> Result<(), Failure> {
        if cause.attempt > self.stage.max_attempts {
            return Err(Failure::permanent(Fault::Exhausted(cause.attempt - 1)));
        }
        let type_name = header(Some(&message.headers), headers::TYPE).unwrap_or_default();
        let payload = Payload::decode(&type_name, &message.payload).map_err(Failure::permanent)?;
        let input = H::Input::decode(payload).map_err(Failure::permanent)?;
        let _turn = self.turn(message).await;
        // Boxed: the future of a stage within ours is deeper than the compiler computes layouts for.
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
                let fault = Fault::Panicked(said(panic.as_ref()));
                tracing::error!("{fault}");
                Err(Failure::transient(fault))
            }
            Err(_) => Err(Failure::transient(Fault::TimedOut(limit))),
        }
    }

    /// Lets a suspect run alone.
    ///
    /// Innocent neighbours of a killer come back together with it. The random wait changes their order, so that they
    /// get done before it kills again.
    async fn turn(&self, message: &Incoming) -> Turn<'_> {
        if message.delivered < SUSPECT {
            return Turn {
                _shared: Some(self.alone.read().await),
                _alone: None,
            };
        }
        tokio::time::sleep(Duration::from_secs(1).mul_f64(random())).await;
        Turn {
            _shared: None,
            _alone: Some(self.alone.write().await),
        }
    }

    /// Publishes, then records; the order is what makes a crash repeat work and lose none.
    async fn finish(&self, outcome: Outcome, cause: &Cause) -> Result<(), Failure> {
        crash::point("bus.handled");
        for output in outcome.outputs {
            match output {
                Output::Fact { event, occurrence } => {
                    let occurrence = occurrence.as_deref().unwrap_or(&cause.occurrence);
                    self.bus
                        .publish(&event, cause, occurrence)
                        .await
                        .map_err(Failure::of)?;
                    crash::point_of("bus.fact_published", event.name());
                }
                Output::Command {
                    command,
                    id,
                    message_id,
                } => {
                    self.bus
                        .command_once(&command, cause, id, &message_id)
                        .await
                        .map_err(Failure::of)?;
                    crash::point("bus.command_published");
                }
                Output::Ask {
                    command,
                    message_id,
                } => {
                    self.bus
                        .command_unless_waiting(&command, cause, &message_id)
                        .await
                        .map_err(Failure::of)?;
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

/// Tells the server that a message is being worked on, until the work is done.
pub(crate) async fn with_heartbeat<T>(
    message: &Incoming,
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
                if let Err(error) = message.settle(Settlement::Working).await {
                    tracing::warn!(error, "a sign of life was lost");
                }
            }
        }
    }
}

/// Returns what a panic said.
fn said(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it did not say why".to_owned())
}

/// Enough chance to spread retries.
pub(crate) fn random() -> f64 {
    let simulated = sluice_domain::clock::simulated_chance();
    let id = simulated.map_or_else(uuid::Uuid::new_v4, uuid::Uuid::from_u128);
    let (high, _) = id.as_u64_pair();
    f64::from(u32::try_from(high >> 32).unwrap_or(0)) / f64::from(u32::MAX)
}
