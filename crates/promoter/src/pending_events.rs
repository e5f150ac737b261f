//! What one judgement leads to: facts and commands to publish, then what to record.

use sluice_bus::{Bus, Cause, Failure, Outcome};
use sluice_events::wire::state::Decision;
use sluice_events::{Command, Event, EventId};
use sluice_service::crash;
use sluice_state::Entries;

/// Events, commands and records that evaluations have yet to publish and store.
#[derive(Default)]
pub(crate) struct PendingEvents {
    facts: Vec<(Event, String)>,
    commands: Vec<(Command, String)>,
    records: Vec<Change>,
}

/// Changes of one stored decision, which are written at once.
pub(crate) struct Change {
    decisions: Entries<Decision>,
    key: String,
    revision: u64,
    decision: Decision,
    edits: Vec<Edit>,
}

type Edit = Box<dyn FnOnce(&mut Decision) + Send>;

impl Change {
    /// Makes a change of a decision that was stored at a revision.
    pub(crate) fn new(
        decisions: Entries<Decision>,
        key: String,
        revision: u64,
        decision: Decision,
        edit: impl FnOnce(&mut Decision) + Send + 'static,
    ) -> Self {
        Self {
            decisions,
            key,
            revision,
            decision,
            edits: vec![Box::new(edit)],
        }
    }

    async fn write(mut self) -> Result<(), sluice_state::Error> {
        let stored = self.decision.clone();
        for edit in self.edits {
            edit(&mut self.decision);
        }
        if self.decision == stored {
            return Ok(());
        }
        let written = self
            .decisions
            .write(&self.key, &self.decision, Some(self.revision));
        match written.await {
            Err(error) if !error.is_conflict() => Err(error),
            // It is another decision by now.
            _ => Ok(()),
        }
    }
}

impl PendingEvents {
    /// Adds a fact with its occurrence.
    pub(crate) fn fact(&mut self, event: impl Into<Event>, occurrence: &str) {
        self.facts.push((event.into(), occurrence.to_owned()));
    }

    /// Adds a command that is given once for this message id.
    pub(crate) fn command(&mut self, command: impl Into<Command>, message_id: String) {
        self.commands.push((command.into(), message_id));
    }

    /// Adds what is recorded once everything is published.
    pub(crate) fn record(&mut self, change: Change) {
        let mut known = self.records.iter_mut();
        match known.find(|known| known.key == change.key) {
            Some(known) => known.edits.extend(change.edits),
            None => self.records.push(change),
        }
    }

    /// Adds what another judgement leads to.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.facts.append(&mut other.facts);
        self.commands.append(&mut other.commands);
        for change in other.records {
            self.record(change);
        }
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
            outcome = outcome.then(record.write());
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
            record.write().await.map_err(Failure::of)?;
            crash::point("promoter.recorded");
        }
        Ok(())
    }
}
