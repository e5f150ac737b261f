//! The handler of a stage: it does the work of one message and returns what to publish and record.

use std::future::Future;
use std::pin::Pin;

use sluice_domain::{Class, Classify};
use sluice_events::{Command, Decode, Event, EventId};

use crate::error::BoxError;
use crate::streams::cause::Cause;

/// The failure of an attempt, and whether a retry may help.
#[derive(Debug)]
pub struct Failure {
    pub(crate) class: Class,
    pub(crate) error: BoxError,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

impl Failure {
    /// Makes a failure of an error and its class.
    pub fn of<E: Classify + std::error::Error + Send + Sync + 'static>(error: E) -> Self {
        Self {
            class: error.class(),
            error: error.into(),
        }
    }

    pub(crate) fn transient(error: impl Into<BoxError>) -> Self {
        Self {
            class: Class::TRANSIENT,
            error: error.into(),
        }
    }

    pub(crate) fn permanent(error: impl Into<BoxError>) -> Self {
        Self {
            class: Class::Permanent,
            error: error.into(),
        }
    }
}

impl Classify for Failure {
    fn class(&self) -> Class {
        self.class
    }
}

/// A step that records state once the streams hold the facts.
pub type Record = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// The work of one stage; an implementation knows nothing of NATS.
pub trait Handler: Send + Sync + 'static {
    /// The messages that it processes.
    type Input: Decode + Send;
    /// Its errors.
    type Error: Classify + std::error::Error + Send + Sync + 'static;

    /// The name of the span around each message.
    const SPAN: &'static str;

    /// Does the work of one message; it may run more than once for the same message.
    fn handle(
        &self,
        input: Self::Input,
        cause: &Cause,
    ) -> impl Future<Output = Result<Outcome, Self::Error>> + Send;
}

pub(crate) enum Output {
    Fact {
        event: Box<Event>,
        occurrence: Option<String>,
    },
    Command {
        command: Command,
        id: EventId,
        message_id: String,
    },
    CommandUnlessPending {
        command: Command,
        message_id: String,
    },
}

/// The facts and commands to publish, and the state to record after them.
#[derive(Default)]
pub struct Outcome {
    pub(crate) outputs: Vec<Output>,
    pub(crate) records: Vec<Record>,
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Outcome({} outputs, {} records)",
            self.outputs.len(),
            self.records.len()
        )
    }
}

impl Outcome {
    /// Publishes and records nothing.
    #[must_use]
    pub fn done() -> Self {
        Self::default()
    }

    /// Publishes a fact; its occurrence is that of the cause.
    #[must_use]
    pub fn fact(mut self, event: impl Into<Event>) -> Self {
        self.outputs.push(Output::Fact {
            event: Box::new(event.into()),
            occurrence: None,
        });
        self
    }

    /// Publishes a fact with an occurrence of its own.
    #[must_use]
    pub fn fact_at(mut self, event: impl Into<Event>, occurrence: impl Into<String>) -> Self {
        self.outputs.push(Output::Fact {
            event: Box::new(event.into()),
            occurrence: Some(occurrence.into()),
        });
        self
    }

    /// Publishes a command once: the stream drops a second one with this message id.
    #[must_use]
    pub fn command(mut self, command: impl Into<Command>, id: EventId, message_id: String) -> Self {
        self.outputs.push(Output::Command {
            command: command.into(),
            id,
            message_id,
        });
        self
    }

    /// Publishes a command unless one is pending on its subject or the stream knows this message id, so that missing work
    /// that is found twice is queued once.
    #[must_use]
    pub fn command_unless_pending(
        mut self,
        command: impl Into<Command>,
        message_id: String,
    ) -> Self {
        self.outputs.push(Output::CommandUnlessPending {
            command: command.into(),
            message_id,
        });
        self
    }

    /// Records state after the streams hold the facts and before the message is acknowledged.
    #[must_use]
    pub fn then<F, E>(mut self, record: F) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Classify + std::error::Error + Send + Sync + 'static,
    {
        self.records
            .push(Box::pin(async move { record.await.map_err(Failure::of) }));
        self
    }
}
