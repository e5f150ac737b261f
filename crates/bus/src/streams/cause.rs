//! The cause of a fact or a command: the message that led to it.

use chrono::{DateTime, Utc};
use sluice_domain::Class;
use sluice_events::EventId;

use crate::topology::SCHEDULE;

/// The message that a stage works on, as the cause of what it publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The id of the event or command.
    pub id: String,
    /// The id of the first event of the chain.
    pub correlation: String,
    /// The occurrence, part of the id of every fact that follows: the same for a redelivery, another for the next tick.
    pub occurrence: String,
    /// The process that published it, as in `/sluice/poller`.
    pub source: String,
    /// When it happened.
    pub time: DateTime<Utc>,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// Whether a failure of this attempt is final.
    pub last_attempt: bool,
    /// How many times the work was delayed because of an outage or a quota.
    pub waits: u32,
}

impl Cause {
    /// Makes a cause with a random id, as for the request of a person.
    #[must_use]
    pub fn root() -> Self {
        Self::external(EventId::random().to_string())
    }

    /// Makes the cause of something that another system knows by this id, such as a notification of a registry.
    #[must_use]
    pub fn external(id: String) -> Self {
        Self {
            correlation: id.clone(),
            occurrence: id.clone(),
            id,
            source: String::new(),
            time: sluice_domain::now(),
            attempt: 1,
            last_attempt: false,
            waits: 0,
        }
    }

    /// Says whether a schedule fired the command, and no person sent it.
    #[must_use]
    pub fn is_scheduled(&self) -> bool {
        self.occurrence.starts_with(SCHEDULE)
    }

    /// Says whether no attempt follows a failure of this class.
    #[must_use]
    pub const fn is_final(&self, class: Class) -> bool {
        match class {
            Class::Permanent => true,
            Class::Transient { .. } => self.last_attempt,
            Class::Unavailable { .. } => false,
        }
    }
}
