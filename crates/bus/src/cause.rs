//! Why something happens: the message that led to it.

use chrono::{DateTime, Utc};
use sluice_domain::Class;
use sluice_events::{EventId, headers};

use crate::envelope::{ATTEMPTS, OCCURRENCE, WAITS, header};
use crate::incoming::Incoming;

/// The message that is being worked on, as the cause of what it leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// The id of the event or command.
    pub id: String,
    /// The id of the event that everything began with.
    pub correlation: String,
    /// What tells this happening from the next.
    pub occurrence: String,
    /// The process that published it, as in `/sluice/poller`.
    pub source: String,
    /// When it happened.
    pub time: DateTime<Utc>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Whether a failure now is final.
    pub last_attempt: bool,
    /// How often the work has waited for something that was away.
    pub waits: u32,
}

impl Cause {
    /// Makes the cause of something that begins by itself, as when a person asks.
    #[must_use]
    pub fn root() -> Self {
        Self::outside(EventId::random().to_string())
    }

    /// Makes the cause of something that happened outside and is known there by this id.
    #[must_use]
    pub fn outside(id: String) -> Self {
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

    /// Says whether a schedule asked, and nobody in particular.
    #[must_use]
    pub fn is_scheduled(&self) -> bool {
        self.occurrence.starts_with("sluice.schedule.")
    }

    /// Says whether a failure of this class is the end of the work: nobody tries again unless somebody asks.
    #[must_use]
    pub const fn is_final(&self, class: Class) -> bool {
        match class {
            Class::Permanent => true,
            Class::Transient { .. } => self.last_attempt,
            Class::Unavailable { .. } => false,
        }
    }

    pub(crate) fn of(message: &Incoming, max_attempts: u32) -> Self {
        let delivered = u32::try_from(message.delivered).unwrap_or(u32::MAX);
        let sequence = message.sequence;
        let read = |name: &str| header(Some(&message.headers), name);
        let number = |name| read(name).and_then(|text| text.parse::<u32>().ok());
        let before = number(ATTEMPTS).unwrap_or(0);
        let attempt = before.saturating_add(delivered);
        let subject = message.subject.as_str();
        let tick = is_tick(subject);
        // A schedule copies its headers at every tick, so the tick's identity is its place in the stream.
        let id = match read(headers::ID) {
            Some(id) if !tick => id,
            _ => EventId::of("tick", subject, &sequence.to_string()).to_string(),
        };
        let occurrence = match read(OCCURRENCE) {
            Some(kept) => kept,
            None if tick => format!(
                "{}@{sequence}",
                read("Nats-Scheduler").unwrap_or_else(|| subject.to_owned())
            ),
            None => id.clone(),
        };
        let correlation = read(headers::CORRELATION_ID)
            .filter(|_| !tick)
            .unwrap_or_else(|| id.clone());
        // Nor is the time at which the schedule was written that of the tick.
        let time = read(headers::TIME)
            .filter(|_| !tick)
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(sluice_domain::now);
        Self {
            id,
            correlation,
            occurrence,
            source: read(headers::SOURCE).unwrap_or_default(),
            time,
            attempt,
            last_attempt: attempt >= max_attempts,
            waits: number(WAITS).unwrap_or(0),
        }
    }
}

/// Says whether a message was fired by a schedule for the first time, and is no copy that waited for its time.
pub(crate) fn is_tick(subject: &str) -> bool {
    subject.starts_with("sluice.due.") && !subject.starts_with("sluice.due.retry.")
}
