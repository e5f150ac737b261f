//! A stage: what it consumes, its limits, and its rights.

use std::time::Duration;

use crate::retry::backoff::Backoff;

/// The prefix of the subject that a schedule fires at, before the topic of its command.
pub const DUE: &str = "sluice.due.";

/// A stage: a service that consumes messages, with its limits and its rights.
#[derive(Debug, Clone, Copy)]
pub struct Stage {
    /// Its name, which is also that of its consumers, of its user at NATS and of its account at the internal registry.
    pub name: &'static str,
    /// The subjects of its events in the stream `EVENTS`.
    pub events: &'static [&'static str],
    /// The subjects of its events in the stream `PULLS`.
    pub pulls: &'static [&'static str],
    /// The subjects of its commands in the stream `WORK`.
    pub work: &'static [&'static str],
    /// The subjects that its schedules fire at.
    pub due: &'static [&'static str],
    /// The stream of its schedules and of the messages that they fire. Who may write a schedule may also make it fire at
    /// any subject of its stream, and may purge that stream, so no two stages share one.
    pub schedules: &'static str,
    /// How long the server waits for an acknowledgement before it delivers a message again.
    pub ack_wait: Duration,
    /// The attempts after which a message becomes a dead letter.
    pub max_attempts: u32,
    /// The delays between attempts.
    pub backoff: Backoff,
    /// What it may do at the internal registry.
    pub registry: RegistryAccess,
    /// Whether it may list the repositories of the internal registry.
    pub lists_repositories: bool,
    /// What it may do at NATS besides publishing its events and consuming its messages.
    pub rights: Rights,
}

impl PartialEq for Stage {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Stage {}

/// What a stage may do at the internal registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistryAccess {
    /// Nothing: it has no account there.
    None,
    /// Pull every repository.
    Read,
    /// Pull, push and delete outside the promotion targets; nothing in them.
    WriteOutsideTargets,
    /// Pull every repository; push and delete in the promotion targets (invariant 1).
    WriteTargets,
}

/// What a service may do at NATS besides publishing its events and consuming the messages of its stage.
#[derive(Debug, Clone, Copy)]
pub struct Rights {
    /// The commands that it publishes, mostly for its own stage.
    pub commands: &'static [&'static str],
    /// The buckets that it reads, besides those that it writes and those that every stage reads.
    pub reads: &'static [&'static str],
    /// The buckets that it writes.
    pub writes: &'static [&'static str],
    /// Whether it writes and removes tags, with `TagWriter`.
    pub writes_tags: bool,
    /// Whether it stores reports.
    pub stores_reports: bool,
    /// Whether it reads reports, with the findings.
    pub reads_reports: bool,
    /// The buckets from which it purges entries, without permission to write them; reports are purged with them.
    pub purges: &'static [&'static str],
    /// Whether it reads dead letters, the backlog of all stages and the usage of streams.
    pub monitors: bool,
    /// Whether it reads all events.
    pub reads_events: bool,
    /// Whether it acknowledges events, so that the server keeps its position.
    pub acknowledges: bool,
    /// Whether it reads dead letters.
    pub reads_dead_letters: bool,
    /// Whether it reads the pending events of its stage.
    pub reads_backlog: bool,
    /// The events of which it reads the last one.
    pub reads_last_events: &'static [&'static str],
    /// The topics of the progress messages that it publishes.
    pub publishes_progress: &'static [&'static str],
    /// Whether it reads progress messages.
    pub reads_progress: bool,
}

impl Rights {
    /// No rights.
    pub const NONE: Self = Self {
        commands: &[],
        reads: &[],
        writes: &[],
        writes_tags: false,
        stores_reports: false,
        reads_reports: false,
        purges: &[],
        monitors: false,
        reads_events: false,
        acknowledges: false,
        reads_dead_letters: false,
        reads_backlog: false,
        reads_last_events: &[],
        publishes_progress: &[],
        reads_progress: false,
    };

    /// Returns every bucket that it writes, those of `TagWriter` among them (invariant 2).
    pub fn written_buckets(&self) -> impl Iterator<Item = &'static str> {
        let of_tags: &[&str] = if self.writes_tags {
            &["tags", "tombstones"]
        } else {
            &[]
        };
        self.writes.iter().chain(of_tags).copied()
    }
}

impl Stage {
    /// Returns the topics of the commands that its schedules fire, as in `poll.>`.
    pub fn scheduled_topics(&self) -> impl Iterator<Item = &'static str> {
        let topics = self.due.iter();
        topics.filter_map(|subject| subject.strip_prefix(DUE))
    }

    /// Says whether it has an account at the internal registry.
    #[must_use]
    pub fn has_registry_account(&self) -> bool {
        self.registry != RegistryAccess::None
    }
}
