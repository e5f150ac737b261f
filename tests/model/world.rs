//! The world of one history: everything outside the processes, and the steps by which they touch it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{Debug, Formatter};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::backend::KeyState;
use sluice_bus::topology::BUCKETS;
use sluice_bus::{Entry, Update};
use sluice_domain::resources::{PromotionPolicy, Resource};
use sluice_events::wire::state as wire;
use sluice_events::wire::state::{Decision, TagEntry, Unauthorised, UpstreamTag, Verdict};

use crate::log::{Log, matches};
use crate::registry::Registry;
use sluice_tests::seeded_random::SeededRandom;

/// A bug that is planted, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Facts reach the stream only after the records were run.
    StateBeforeEvent,
    /// Compare-and-set does not compare.
    NoComparison,
    /// What a source of truth said before is read again.
    StaleReads,
    /// A policy that was removed is read as if it still were there.
    PoliciesStay,
    /// What was decided is not searched for what the policies do not allow any more.
    NoSearchOfDecisions,
}

/// What becomes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It happens and is answered.
    Answered,
    /// It does not happen, and the connection breaks.
    Refused,
    /// It happens, but the answer is lost.
    Unanswered,
}

/// A step that waits to be let go.
#[derive(Debug)]
pub struct Waiting {
    /// Its number.
    pub number: u64,
    /// The task that waits.
    pub task: usize,
    /// The watch that it waits for, if for any.
    pub watch: Option<usize>,
    waker: Waker,
}

/// What is known of a task.
#[derive(Debug, Clone, Default)]
pub struct Doing {
    /// Its process and message.
    pub name: String,
    /// The id of the message it works on.
    pub id: String,
    /// The step at which it began.
    pub since: u64,
    /// Facts that the planted bug keeps back.
    pub kept_back: Vec<sluice_bus::backend::Outgoing>,
}

/// One bucket.
#[derive(Debug, Default)]
pub struct Bucket {
    /// Its entries and the marks of removed ones.
    pub entries: BTreeMap<String, KeyState>,
    before: BTreeMap<String, Option<KeyState>>,
    revision: u64,
    /// The changes that the bucket keeps of each key, the oldest first.
    history: VecDeque<Update>,
}

impl Bucket {
    /// Keeps a change, and of its key as many as the real bucket would.
    fn remember(&mut self, name: &str, change: Update) {
        let kept = BUCKETS.iter().find(|bucket| bucket.name == name);
        let kept = kept.map_or(1, |bucket| usize::try_from(bucket.history).unwrap());
        let is_of_key = |known: &Update| known.key() == change.key();
        if self.history.iter().filter(|known| is_of_key(known)).count() >= kept {
            let oldest = self.history.iter().position(is_of_key).unwrap();
            self.history.remove(oldest);
        }
        self.history.push_back(change);
    }
}

/// Everything outside the processes.
pub struct World {
    /// The seed and what follows from it.
    pub random: SeededRandom,
    /// The time.
    pub now: DateTime<Utc>,
    /// How many steps there were.
    pub steps: u64,
    /// Of all steps.
    pub hash: u64,
    /// The steps, if somebody wants to read them.
    pub trace: Option<Vec<String>>,
    /// The task that runs now.
    pub task: usize,
    /// Whether steps are taken at once, while a process starts.
    pub at_once: bool,
    /// Steps that wait.
    pub waiting: Vec<Waiting>,
    granted: BTreeMap<u64, Fate>,
    numbers: u64,
    /// What each task does.
    pub doing: BTreeMap<usize, Doing>,
    /// The streams.
    pub log: Log,
    /// The buckets.
    pub buckets: BTreeMap<&'static str, Bucket>,
    /// Who watches which bucket, with what they have not seen.
    pub watches: Vec<(&'static str, VecDeque<Update>)>,
    /// The internal registry.
    pub hub: Registry,
    /// The upstream registry.
    pub upstream: Registry,
    /// The digests in which the newest database finds something bad.
    pub bad: BTreeSet<String>,
    /// The version of the newest database.
    pub database: i64,
    /// The planted bug.
    pub bug: Option<Bug>,
    /// Decoded decisions.
    pub decisions: BTreeMap<String, Decision>,
    /// Decoded entries of tags.
    pub tags: BTreeMap<String, TagEntry>,
    /// The promotion policies as they are applied now, with their revisions.
    pub policies: BTreeMap<String, (PromotionPolicy, u64)>,
    /// Every policy that ever was, by name and revision, with the step until which it was applied.
    pub policies_until: BTreeMap<(String, u64), (PromotionPolicy, u64)>,
    /// Tags of targets that are written down as unauthorised, with their digests.
    pub unauthorised: BTreeMap<String, Unauthorised>,
    /// Decoded entries of upstream tags.
    pub moves: BTreeMap<String, UpstreamTag>,
    /// Until which step a verdict on a digest was good.
    pub good_until: BTreeMap<String, u64>,
    /// Which message wrote a tag or manifest last.
    pub writers: BTreeMap<(String, String), String>,
    /// Whether a service has written entries of tags that lie, so that they say nothing of the registry any more.
    pub lied_to: bool,
    /// Whether somebody changed policies, so that decisions end whose images promoters then take away.
    pub policies_changed: bool,
    /// What changed since the invariants were checked.
    pub changed: bool,
    /// What is wrong.
    pub violation: Option<String>,
}

impl Debug for World {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "World(step {})", self.steps)
    }
}

/// The world, as tasks hold it.
#[derive(Debug, Clone)]
pub struct Shared(Arc<Mutex<World>>);

/// The beginning of every history.
pub fn beginning() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

impl Shared {
    /// Makes a world.
    pub fn new(seed: u64, bug: Option<Bug>, traced: bool) -> Self {
        let world = World {
            random: SeededRandom::new(seed),
            now: beginning(),
            steps: 0,
            hash: 0,
            trace: traced.then(Vec::new),
            task: 0,
            at_once: false,
            waiting: Vec::new(),
            granted: BTreeMap::new(),
            numbers: 0,
            doing: BTreeMap::new(),
            log: Log::new(TimeDelta::hours(2)),
            buckets: BTreeMap::new(),
            watches: Vec::new(),
            hub: Registry::default(),
            upstream: Registry::default(),
            bad: BTreeSet::new(),
            database: 1,
            bug,
            decisions: BTreeMap::new(),
            tags: BTreeMap::new(),
            policies: BTreeMap::new(),
            policies_until: BTreeMap::new(),
            unauthorised: BTreeMap::new(),
            moves: BTreeMap::new(),
            good_until: BTreeMap::new(),
            writers: BTreeMap::new(),
            lied_to: false,
            policies_changed: false,
            changed: false,
            violation: None,
        };
        Self(Arc::new(Mutex::new(world)))
    }

    /// Looks at the world.
    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }

    /// Takes a step once the scheduler lets it go.
    pub fn step<T: 'static>(
        &self,
        what: String,
        effect: impl FnOnce(&mut World) -> T + Send + 'static,
    ) -> Step<T> {
        Step {
            world: self.clone(),
            what,
            watch: None,
            number: None,
            effect: Some(Box::new(effect)),
        }
    }

    /// Takes a step once a watch has something.
    pub fn watched<T: 'static>(
        &self,
        watch: usize,
        effect: impl FnOnce(&mut World) -> T + Send + 'static,
    ) -> Step<T> {
        let mut step = self.step("sees a change".to_owned(), effect);
        step.watch = Some(watch);
        step
    }
}

/// What a step does.
type Effect<T> = Box<dyn FnOnce(&mut World) -> T + Send>;

/// A step of some task.
pub struct Step<T> {
    world: Shared,
    what: String,
    watch: Option<usize>,
    number: Option<u64>,
    effect: Option<Effect<T>>,
}

/// The connection broke; whether it happened is not known.
#[derive(Debug, thiserror::Error)]
#[error("the connection broke")]
pub struct Lost;

impl<T> Future for Step<T> {
    type Output = Result<T, Lost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let shared = self.world.clone();
        let mut world = shared.lock();
        let fate = match self.number {
            None if world.at_once => Fate::Answered,
            None => {
                world.numbers += 1;
                let number = world.numbers;
                let waiting = Waiting {
                    number,
                    task: world.task,
                    watch: self.watch,
                    waker: context.waker().clone(),
                };
                world.waiting.push(waiting);
                self.number = Some(number);
                return Poll::Pending;
            }
            Some(number) => match world.granted.remove(&number) {
                Some(fate) => fate,
                None => {
                    let waker = context.waker().clone();
                    let mut waiting = world.waiting.iter_mut();
                    if let Some(own) = waiting.find(|waiting| waiting.number == number) {
                        own.waker = waker;
                    }
                    return Poll::Pending;
                }
            },
        };
        self.number = None;
        let effect = self.effect.take().unwrap();
        if !world.at_once {
            let who = world.doing[&world.task].name.clone();
            let how = match fate {
                Fate::Answered => "",
                Fate::Refused => " (the connection breaks before)",
                Fate::Unanswered => " (the answer is lost)",
            };
            world.note(&format!("{who}: {}{how}", self.what));
        }
        match fate {
            Fate::Answered => Poll::Ready(Ok(effect(&mut world))),
            Fate::Refused => Poll::Ready(Err(Lost)),
            Fate::Unanswered => {
                effect(&mut world);
                Poll::Ready(Err(Lost))
            }
        }
    }
}

impl<T> Drop for Step<T> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let mut world = self.world.lock();
            world.granted.remove(&number);
            world.waiting.retain(|waiting| waiting.number != number);
        }
    }
}

impl World {
    /// Notes a step.
    pub fn note(&mut self, line: &str) {
        self.steps += 1;
        self.now += TimeDelta::milliseconds(1);
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let (steps, now) = (self.steps, self.now);
        if let Some(trace) = &mut self.trace {
            let line = crate::images::short(line);
            let at = (now - beginning()).num_seconds();
            trace.push(format!("{steps:>5} {at:>6}s  {line}"));
        }
    }

    /// Notes what is wrong; the first counts.
    pub fn wrong(&mut self, what: String) {
        if self.violation.is_none() {
            self.violation = Some(crate::images::short(&what));
        }
    }

    /// Lets a step go.
    pub fn grant(&mut self, place: usize, fate: Fate) {
        let waiting = self.waiting.remove(place);
        self.granted.insert(waiting.number, fate);
        waiting.waker.wake();
    }

    /// Reads an entry.
    pub fn read(&mut self, bucket: &'static str, key: &str) -> Option<KeyState> {
        let stale = self.bug == Some(Bug::StaleReads)
            && !self.at_once
            && ["upstream", "decisions"].contains(&bucket)
            && self.random.percent(30);
        let bucket = self.buckets.get(bucket)?;
        if stale && let Some(before) = bucket.before.get(key) {
            return before.clone();
        }
        bucket.entries.get(key).cloned()
    }

    /// Writes or removes an entry if it is still at this revision.
    pub fn write(
        &mut self,
        name: &'static str,
        key: &str,
        value: Option<Bytes>,
        revision: Option<u64>,
    ) -> Option<u64> {
        let compares = self.bug != Some(Bug::NoComparison);
        let bucket = self.buckets.entry(name).or_default();
        let known = bucket.entries.get(key);
        let is = known.map_or(0, |mark| mark.revision);
        if revision.is_some_and(|revision| compares && revision != is) {
            return None;
        }
        bucket.revision += 1;
        let mark = KeyState {
            revision: bucket.revision,
            value: value.clone(),
        };
        let before = bucket.entries.insert(key.to_owned(), mark.clone());
        bucket.before.insert(key.to_owned(), before);
        bucket.remember(name, update(key, &mark));
        for (watched, queue) in &mut self.watches {
            if *watched == name {
                queue.push_back(update(key, &mark));
            }
        }
        self.decode(name, key, value.as_ref(), mark.revision);
        Some(mark.revision)
    }

    /// Keeps what the invariants ask for in decoded form.
    fn decode(&mut self, bucket: &str, key: &str, value: Option<&Bytes>, revision: u64) {
        use prost::Message as _;
        let Some(value) = value.cloned() else {
            match bucket {
                "resources" => self.note_policy(key, None, revision),
                "control" => drop(self.unauthorised.remove(key)),
                "tags" => drop(self.tags.remove(key)),
                _ => return,
            }
            self.changed = true;
            return;
        };
        match bucket {
            "resources" => {
                let resource = wire::Resource::decode(value).unwrap();
                let kind = resource.kind.parse().unwrap();
                if let Resource::PromotionPolicy(policy) =
                    Resource::from_json(kind, &resource.json).unwrap()
                {
                    self.note_policy(key, Some(policy), revision);
                }
            }
            "control" if key.starts_with("unauthorised.") => {
                let found = Unauthorised::decode(value).unwrap();
                self.unauthorised.insert(key.to_owned(), found);
            }
            "decisions" => {
                let decision = Decision::decode(value).unwrap();
                self.check_decision(key, &decision);
                self.decisions.insert(key.to_owned(), decision);
            }
            "tags" => {
                let entry = TagEntry::decode(value).unwrap();
                self.tags.insert(key.to_owned(), entry);
            }
            // The last poll of a mirror has a key of one token.
            "upstream" if key.contains('.') => {
                let entry = UpstreamTag::decode(value).unwrap();
                self.check_move(&entry);
                self.moves.insert(key.to_owned(), entry);
            }
            "verdicts" => {
                let verdict = Verdict::decode(value).unwrap();
                self.note_verdict(verdict);
            }
            _ => return,
        }
        self.changed = true;
    }

    /// Remembers the policy of a key, or that there is none any more.
    fn note_policy(&mut self, key: &str, policy: Option<PromotionPolicy>, revision: u64) {
        let steps = self.steps;
        if let Some((before, at)) = self.policies.remove(key) {
            let name = before.name.to_string();
            self.policies_until.insert((name, at), (before, steps));
        }
        if let Some(policy) = policy {
            let name = policy.name.to_string();
            let now = (policy.clone(), u64::MAX);
            self.policies_until.insert((name, revision), now);
            self.policies.insert(key.to_owned(), (policy, revision));
        }
    }

    /// Lists the last changes of the keys that match a filter.
    pub fn newest(&self, bucket: &'static str, filter: &str) -> Vec<Update> {
        let stays = self.bug == Some(Bug::PoliciesStay) && !self.at_once;
        let entries = self.buckets.get(bucket).into_iter();
        let entries = entries.flat_map(|bucket| {
            let before = &bucket.before;
            let entries = bucket
                .entries
                .iter()
                .filter(|(key, _)| matches(filter, key));
            entries.filter_map(move |(key, mark)| match &mark.value {
                None if stays && name_of(key) == "PromotionPolicy" => {
                    Some((key, before.get(key)?.as_ref()?))
                }
                _ => Some((key, mark)),
            })
        });
        entries.map(|(key, mark)| update(key, mark)).collect()
    }

    /// Lets every watch begin anew, as a client does after a reconnect: all that a bucket still has of its history is
    /// delivered again, the oldest first.
    pub fn reconnect(&mut self) {
        for (name, queue) in &mut self.watches {
            let bucket = self.buckets.get(name);
            *queue = bucket.map_or_else(VecDeque::new, |bucket| bucket.history.clone());
        }
        self.note("nats-server is back; watches deliver what they had");
    }
}

/// Returns a change as a watch delivers it.
fn update(key: &str, mark: &KeyState) -> Update {
    let (key, revision) = (key.to_owned(), mark.revision);
    match mark.value.clone() {
        Some(value) => Update::Put(Entry {
            key,
            value,
            revision,
        }),
        None => Update::Removed { key, revision },
    }
}

/// Returns what the key of a resource begins with.
fn name_of(key: &str) -> &str {
    key.split_once('.').map_or(key, |(kind, _)| kind)
}
