//! What a stage implements: take a message, do the work, return the facts.

use std::future::Future;
use std::pin::Pin;

use sluice_domain::{Class, Classify};
use sluice_events::{Command, Decode, Event, EventId};

use crate::cause::Cause;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a message is not done, and whether another attempt may help.
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
    /// Keeps an error together with its class.
    pub fn of<E: Classify + std::error::Error + Send + Sync + 'static>(error: E) -> Self {
        Self {
            class: error.class(),
            error: error.into(),
        }
    }
}

impl Classify for Failure {
    fn class(&self) -> Class {
        self.class
    }
}

/// What is recorded once the facts are held by the stream.
pub type Record = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// One stage. It knows nothing of NATS.
pub trait Handler: Send + Sync + 'static {
    /// What it consumes.
    type Input: Decode + Send;
    /// How it fails.
    type Error: Classify + std::error::Error + Send + Sync + 'static;

    /// The name of the span around each message.
    const SPAN: &'static str;

    /// Does the work of one message; may run more than once for it.
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
    Ask {
        command: Command,
        message_id: String,
    },
}

/// The facts to publish, then what to record.
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
    /// Nothing to tell and nothing to record.
    #[must_use]
    pub fn done() -> Self {
        Self::default()
    }

    /// Adds a fact; its occurrence is that of the cause.
    #[must_use]
    pub fn fact(mut self, event: impl Into<Event>) -> Self {
        self.outputs.push(Output::Fact {
            event: Box::new(event.into()),
            occurrence: None,
        });
        self
    }

    /// Adds a fact with an occurrence of its own.
    #[must_use]
    pub fn fact_at(mut self, event: impl Into<Event>, occurrence: impl Into<String>) -> Self {
        self.outputs.push(Output::Fact {
            event: Box::new(event.into()),
            occurrence: Some(occurrence.into()),
        });
        self
    }

    /// Adds a command that is given once for this id.
    #[must_use]
    pub fn command(mut self, command: impl Into<Command>, id: EventId, message_id: String) -> Self {
        self.outputs.push(Output::Command {
            command: command.into(),
            id,
            message_id,
        });
        self
    }

    /// Adds a command that is given unless one waits on its subject, or this id is known: whoever finds the same missing
    /// again asks once.
    #[must_use]
    pub fn ask(mut self, command: impl Into<Command>, message_id: String) -> Self {
        self.outputs.push(Output::Ask {
            command: command.into(),
            message_id,
        });
        self
    }

    /// Adds what is recorded after the facts are held and before the message is acknowledged.
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
