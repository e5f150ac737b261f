//! What an evaluation leads to: events and commands to publish, then changes of the decision to store.

use sluice_bus::{Bus, Cause, Failure, Outcome};
use sluice_events::wire::state::Decision;
use sluice_events::{Command, Event, EventId};
use sluice_service::crash;
use sluice_state::{Entries, State};

use crate::error::Error;
use crate::evaluate::evaluated_decision::Evaluation;

/// Events, commands and changes of decisions that evaluations have yet to publish and store.
#[derive(Default)]
pub(crate) struct PendingEvents {
    events: Vec<(Event, String)>,
    commands: Vec<(Command, String)>,
    changes: Vec<DecisionChange>,
}

/// Edits of one stored decision, which are written together.
struct DecisionChange {
    decisions: Entries<Decision>,
    key: String,
    revision: u64,
    decision: Decision,
    edits: Vec<Edit>,
}

type Edit = Box<dyn FnOnce(&mut Decision) + Send>;

impl DecisionChange {
    /// Writes the edits; a decision that changed meanwhile stays as it is.
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
            _ => Ok(()),
        }
    }
}

impl PendingEvents {
    /// Adds an event with its occurrence.
    pub(crate) fn event(&mut self, event: impl Into<Event>, occurrence: &str) {
        self.events.push((event.into(), occurrence.to_owned()));
    }

    /// Adds a command that is published once for this message id.
    pub(crate) fn command(&mut self, command: impl Into<Command>, message_id: String) {
        self.commands.push((command.into(), message_id));
    }

    /// Adds an edit of a decision that was carried out, and that its events were published.
    pub(crate) fn record(
        &mut self,
        state: &State,
        evaluation: &Evaluation<'_>,
        edit: impl FnOnce(&mut Decision) + Send + 'static,
    ) {
        self.edit(state, evaluation, |decision| {
            decision.published = true;
            edit(decision);
        });
    }

    /// Adds an edit of a decision, to be stored once everything is published.
    pub(crate) fn edit(
        &mut self,
        state: &State,
        evaluation: &Evaluation<'_>,
        edit: impl FnOnce(&mut Decision) + Send + 'static,
    ) {
        self.add_change(DecisionChange {
            decisions: state.decisions.clone(),
            key: evaluation.key.clone(),
            revision: evaluation.revision,
            decision: evaluation.decision.clone(),
            edits: vec![Box::new(edit)],
        });
    }

    fn add_change(&mut self, change: DecisionChange) {
        let mut known = self.changes.iter_mut();
        match known.find(|known| known.key == change.key) {
            Some(known) => known.edits.extend(change.edits),
            None => self.changes.push(change),
        }
    }

    /// Adds what another evaluation leads to.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.events.append(&mut other.events);
        self.commands.append(&mut other.commands);
        for change in other.changes {
            self.add_change(change);
        }
    }

    /// Leaves publishing and storing to the consume loop.
    pub(crate) fn into_outcome(self) -> Outcome {
        let mut outcome = Outcome::done();
        for (event, occurrence) in self.events {
            outcome = outcome.fact_at(event, occurrence);
        }
        for (command, message_id) in self.commands {
            outcome = outcome.command(command, EventId::random(), message_id);
        }
        for change in self.changes {
            outcome = outcome.then(change.write());
        }
        outcome
    }

    /// Publishes and stores now: where one policy failed, what follows from the decisions of the others does not wait for it.
    pub(crate) async fn publish(self, bus: &Bus, cause: &Cause) -> Result<(), Error> {
        let published = self.publish_all(bus, cause).await;
        published.map_err(|source| Error::Publish { source })
    }

    async fn publish_all(self, bus: &Bus, cause: &Cause) -> Result<(), Failure> {
        for (event, occurrence) in self.events {
            bus.publish(&event, cause, &occurrence)
                .await
                .map_err(Failure::of)?;
            crash::point("promoter.event_published");
        }
        for (command, message_id) in self.commands {
            bus.command_once(&command, cause, EventId::random(), &message_id)
                .await
                .map_err(Failure::of)?;
            crash::point("promoter.command_published");
        }
        for change in self.changes {
            change.write().await.map_err(Failure::of)?;
            crash::point("promoter.recorded");
        }
        Ok(())
    }
}
