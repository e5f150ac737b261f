//! The streams in memory: what was published, what each stage still has to do, what is scheduled.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::backend::{
    Acknowledgement, BackendError, Delivery, Headers, LastMessage, Outgoing, PublishAck,
};
use sluice_bus::topology::{
    DEAD_LETTERS, EVENTS, MIRROR_WORKER, POLLER, PROMOTER, PRUNER, SCANNER_ADAPTER, Stage, WORK,
};
use sluice_events::subject;
use sluice_events::{Event, EventId, headers};

/// Here all stages share one stream of schedules.
const SCHEDULES: &str = "SCHEDULES";

/// The stages that the model has.
const STAGES: [&Stage; 5] = [
    &POLLER,
    &MIRROR_WORKER,
    &SCANNER_ADAPTER,
    &PROMOTER,
    &PRUNER,
];

/// A message that a stage has not settled.
#[derive(Debug, Clone)]
pub struct Item {
    /// The stage.
    pub stage: &'static Stage,
    /// The id of the event or command, the same for all its copies.
    pub id: String,
    /// From when on it can be delivered; nothing while it is out.
    pub ready: Option<DateTime<Utc>>,
    until: DateTime<Utc>,
    delivery: Delivery,
    receipts: Vec<u64>,
}

#[derive(Debug, Clone)]
struct Scheduled {
    sequence: u64,
    due: DateTime<Utc>,
    headers: Headers,
    payload: Bytes,
}

/// The streams.
#[derive(Debug, Default)]
pub struct Log {
    /// What is still to be done.
    pub items: Vec<Item>,
    /// Every fact that was ever published, with its id.
    pub facts: Vec<(String, Event)>,
    /// Dead letters: the stage and the reason.
    pub dead: Vec<String>,
    /// How long a message id is remembered.
    pub window: TimeDelta,
    schedules: BTreeMap<String, Scheduled>,
    ids: BTreeMap<(&'static str, String), (u64, DateTime<Utc>)>,
    sequences: BTreeMap<&'static str, u64>,
    receipts: u64,
}

impl Log {
    /// Makes streams that remember message ids for this long.
    pub fn new(window: TimeDelta) -> Self {
        Self {
            window,
            ..Self::default()
        }
    }

    /// Stores a message.
    pub fn publish(
        &mut self,
        now: DateTime<Utc>,
        message: &Outgoing,
    ) -> Result<PublishAck, BackendError> {
        let stream = stream_of(&message.subject);
        if let Some(id) = &message.message_id {
            let known = self.ids.get(&(stream, id.clone()));
            if let Some((sequence, at)) = known
                && now - *at < self.window
            {
                return Ok(PublishAck {
                    sequence: *sequence,
                    duplicate: true,
                });
            }
        }
        if let Some(expected) = message.expected_sequence {
            let schedule = self
                .schedules
                .get(&message.subject)
                .map(|last| last.sequence);
            let waiting = self
                .items
                .iter()
                .filter(|item| item.delivery.subject == message.subject)
                .map(|item| item.delivery.sequence);
            if waiting.chain(schedule).max().unwrap_or(0) != expected {
                return Err(BackendError::Conflict);
            }
        }
        let sequence = self.sequences.entry(stream).or_default();
        *sequence += 1;
        let sequence = *sequence;
        if let Some(id) = &message.message_id {
            self.ids.insert((stream, id.clone()), (sequence, now));
        }
        let stored = PublishAck {
            sequence,
            duplicate: false,
        };
        if message.subject.starts_with("sluice.schedule.") {
            let text = read(&message.headers, "Nats-Schedule").unwrap();
            let due = text.strip_prefix("@at ").unwrap().parse().unwrap();
            let scheduled = Scheduled {
                sequence,
                due,
                headers: message.headers.clone(),
                payload: message.payload.clone(),
            };
            self.schedules.insert(message.subject.clone(), scheduled);
            return Ok(stored);
        }
        self.note(stream, message);
        for stage in STAGES {
            let filters = [stage.events, stage.work, stage.due];
            if filters
                .into_iter()
                .flatten()
                .any(|filter| matches(filter, &message.subject))
            {
                let delivery = Delivery {
                    receipt: 0,
                    stream: stream.to_owned(),
                    sequence,
                    delivered: 0,
                    subject: message.subject.clone(),
                    headers: message.headers.clone(),
                    payload: message.payload.clone(),
                };
                // As the consume loop calls it: a tick's own headers are those of all ticks.
                let is_tick = message.subject.starts_with("sluice.due.")
                    && !message.subject.starts_with("sluice.due.retry.");
                let id = if is_tick {
                    EventId::of("tick", &message.subject, &sequence.to_string()).to_string()
                } else {
                    read(&message.headers, headers::ID).unwrap_or_default()
                };
                self.items.push(Item {
                    stage,
                    id,
                    ready: Some(now),
                    until: now,
                    delivery,
                    receipts: Vec::new(),
                });
            }
        }
        Ok(stored)
    }

    fn note(&mut self, stream: &str, message: &Outgoing) {
        let type_name = read(&message.headers, headers::TYPE).unwrap_or_default();
        if stream == EVENTS {
            let id = read(&message.headers, headers::ID).unwrap_or_default();
            let event = Event::decode(&type_name, &message.payload).unwrap();
            self.facts.push((id, event.unwrap()));
        }
        if stream == DEAD_LETTERS {
            let reason = read(&message.headers, "sluice-dead-reason").unwrap_or_default();
            self.dead
                .push(format!("{} {type_name}: {reason}", message.subject));
        }
    }

    /// Gives a message to whoever takes it.
    pub fn deliver(&mut self, place: usize, now: DateTime<Utc>) -> Delivery {
        self.receipts += 1;
        let item = &mut self.items[place];
        item.ready = None;
        item.until = now + TimeDelta::from_std(item.stage.ack_wait).unwrap();
        item.receipts.push(self.receipts);
        item.delivery.delivered += 1;
        Delivery {
            receipt: self.receipts,
            ..item.delivery.clone()
        }
    }

    /// Settles a delivery; one that was settled otherwise is no matter.
    pub fn settle(&mut self, receipt: u64, how: Acknowledgement, now: DateTime<Utc>) {
        let is_it = |item: &Item| item.receipts.contains(&receipt);
        let Some(place) = self.items.iter().position(is_it) else {
            return;
        };
        let item = &mut self.items[place];
        match how {
            Acknowledgement::Ack | Acknowledgement::Term => drop(self.items.remove(place)),
            Acknowledgement::Progress => {
                item.until = now + TimeDelta::from_std(item.stage.ack_wait).unwrap();
            }
        }
    }

    /// Gives what was not settled in time to somebody else, and fires what is due.
    pub fn tick(&mut self, now: DateTime<Utc>) {
        for item in &mut self.items {
            if item.ready.is_none() && item.until <= now {
                item.ready = Some(now);
            }
        }
        let due: Vec<String> = self
            .schedules
            .iter()
            .filter(|(_, scheduled)| scheduled.due <= now)
            .map(|(subject, _)| subject.clone())
            .collect();
        for subject in due {
            let scheduled = self.schedules.remove(&subject).unwrap();
            let target = read(&scheduled.headers, "Nats-Schedule-Target").unwrap();
            let mut headers = scheduled.headers;
            headers.retain(|(name, _)| !name.starts_with("Nats-"));
            headers.push(("Nats-Scheduler".to_owned(), subject));
            let fired = Outgoing {
                subject: target,
                headers,
                payload: scheduled.payload,
                message_id: None,
                expected_sequence: None,
                ttl: None,
            };
            self.publish(now, &fired).unwrap();
        }
    }

    /// Returns how many messages were stored so far.
    pub fn stored(&self) -> u64 {
        self.sequences.values().sum()
    }

    /// Returns when something will happen by itself.
    pub fn next(&self) -> Option<DateTime<Utc>> {
        let items = self
            .items
            .iter()
            .map(|item| item.ready.unwrap_or(item.until));
        let schedules = self.schedules.values().map(|scheduled| scheduled.due);
        items.chain(schedules).min()
    }

    /// Says whether some copy of a message is still to be settled by a stage.
    pub fn is_live(&self, id: &str) -> bool {
        let waits = |scheduled: &Scheduled| read(&scheduled.headers, headers::ID);
        self.items.iter().any(|item| item.id == id)
            || self
                .schedules
                .iter()
                .filter(|(subject, _)| subject.starts_with("sluice.schedule.retry."))
                .any(|(_, scheduled)| waits(scheduled).is_some_and(|waiting| waiting == id))
    }

    /// Says whether a judgement of an image is asked for that is not settled yet.
    pub fn is_to_be_judged(&self, digest: &str) -> bool {
        let about = subject::encode(digest);
        let judges = |item: &Item| item.delivery.subject.starts_with("sluice.do.judge.");
        self.items
            .iter()
            .any(|item| judges(item) && item.delivery.subject.ends_with(&about))
    }

    /// Says whether a stage has anything to do, or to do later.
    pub fn is_busy(&self, stage: &Stage) -> bool {
        let retry = format!("sluice.schedule.retry.{}.", stage.name);
        self.items.iter().any(|item| item.stage.name == stage.name)
            || self.schedules.keys().any(|key| key.starts_with(&retry))
    }

    /// Removes the facts that stages have not settled yet, as when EVENTS is purged.
    pub fn purge_events(&mut self, stages: &[&Stage]) {
        let is_theirs = |item: &Item| stages.iter().any(|stage| stage.name == item.stage.name);
        self.items
            .retain(|item| item.delivery.stream != EVENTS || !is_theirs(item));
    }

    /// Returns the last message of a schedule.
    pub fn last(&self, subject: &str) -> Option<LastMessage> {
        self.schedules.get(subject).map(|scheduled| LastMessage {
            sequence: scheduled.sequence,
            headers: scheduled.headers.clone(),
            payload: scheduled.payload.clone(),
        })
    }

    /// Removes a schedule.
    pub fn purge(&mut self, subject: &str) {
        self.schedules.remove(subject);
    }

    /// Returns the schedules that match a filter.
    pub fn subjects(&self, filter: &str) -> Vec<String> {
        let subjects = self.schedules.keys();
        subjects
            .filter(|key| matches(filter, key))
            .cloned()
            .collect()
    }
}

impl Item {
    /// Names the message for traces.
    pub fn subject(&self) -> &str {
        &self.delivery.subject
    }
}

fn stream_of(subject: &str) -> &'static str {
    match subject.split('.').nth(1).unwrap() {
        "v1" => EVENTS,
        "do" => WORK,
        "dead" => DEAD_LETTERS,
        _ => SCHEDULES,
    }
}

fn read(map: &Headers, name: &str) -> Option<String> {
    let (_, value) = map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    headers::decode(value)
}

/// Says whether a subject or key matches a filter with `*` and `>`.
pub fn matches(filter: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for wanted in filter.split('.') {
        if wanted == ">" {
            return tokens.next().is_some();
        }
        match tokens.next() {
            Some(token) if wanted == "*" || wanted == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}
