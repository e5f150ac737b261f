//! What one judgement leads to: facts and commands to publish, then what to record.

use std::future::Future;

use sluice_bus::{Bus, Cause, Failure, Outcome, Record};
use sluice_events::{Command, Event, EventId};
use sluice_service::crash;

/// Facts, commands and records of any number of judgements.
#[derive(Default)]
pub(crate) struct Told {
    facts: Vec<(Event, String)>,
    commands: Vec<(Command, String)>,
    records: Vec<Record>,
}

impl Told {
    /// Adds a fact with its occurrence.
    pub(crate) fn fact(&mut self, event: impl Into<Event>, occurrence: &str) {
        self.facts.push((event.into(), occurrence.to_owned()));
    }

    /// Adds a command that is given once for this message id.
    pub(crate) fn command(&mut self, command: impl Into<Command>, message_id: String) {
        self.commands.push((command.into(), message_id));
    }

    /// Adds what is recorded once everything is published.
    pub(crate) fn record<F>(&mut self, record: F)
    where
        F: Future<Output = Result<(), sluice_state::Error>> + Send + 'static,
    {
        self.records
            .push(Box::pin(async move { record.await.map_err(Failure::of) }));
    }

    /// Adds what another judgement leads to.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.facts.append(&mut other.facts);
        self.commands.append(&mut other.commands);
        self.records.append(&mut other.records);
    }

    /// Leaves publishing and recording to the consume loop.
    pub(crate) fn into_outcome(self) -> Outcome {
        let mut outcome = Outcome::done();
        for (event, occurrence) in self.facts {
            outcome = outcome.fact_at(event, occurrence);
        }
        for (command, message_id) in self.commands {
            outcome = outcome.command(command, EventId::random(), message_id);
        }
        for record in self.records {
            outcome = outcome.then(record);
        }
        outcome
    }

    /// Publishes and records at once: where one policy failed, what the others did must not wait for it.
    pub(crate) async fn settle(self, bus: &Bus, cause: &Cause) -> Result<(), Failure> {
        for (event, occurrence) in self.facts {
            bus.publish(&event, cause, &occurrence)
                .await
                .map_err(Failure::of)?;
            crash::point("promoter.fact_told");
        }
        for (command, message_id) in self.commands {
            bus.command_once(&command, cause, EventId::random(), &message_id)
                .await
                .map_err(Failure::of)?;
            crash::point("promoter.command_given");
        }
        for record in self.records {
            record.await?;
            crash::point("promoter.recorded");
        }
        Ok(())
    }
}
