//! What people, upstream and fate do in a history.

use chrono::TimeDelta;
use sluice_bus::Cause;
use sluice_bus::backend::Outgoing;
use sluice_bus::topology::{self, Stage};
use sluice_domain::resources::{Resource, parse_documents};
use sluice_events::commands::{JudgeImage, PollMirror, PruneRepositories, ScanImage};
use sluice_events::{Command, headers};

use sluice_state::reconcile::{self, reason};

use crate::backend::UPSTREAM;
use crate::history::{History, Scenario};
use crate::images::{POOL, short};
use crate::policies::{self, Written};
use crate::sabotage;
use crate::stages::{RECONCILED, at_once};
use crate::world::World;
use sluice_tests::seeded_random::SeededRandom;

/// The tags that upstream may have.
pub const TAGS: [&str; 3] = ["1", "2", "3"];

/// What a history has in store.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What it is about.
    pub scenario: Scenario,
    /// How many more things are done.
    pub acts: usize,
    /// How many answers more are lost.
    pub faults: usize,
    /// How often.
    pub fault_percent: u64,
    /// How many crashes more there are.
    pub crashes: usize,
    /// How many messages in a hundred stall for longer than claims last.
    pub stalls: u64,
    /// How many times in a thousand something is done although there is work.
    pub act_per_mille: usize,
    /// The policies.
    pub policies: Vec<Written>,
    /// How many tags a repository keeps.
    pub keep: usize,
    /// The mirrors.
    pub mirrors: Vec<&'static str>,
    /// Whether facts were purged since images were looked at the last time.
    pub purged: bool,
    /// Whether tags that are gone upstream go here too.
    pub deletes: bool,
}

impl Plan {
    /// Draws a plan.
    pub fn new(random: &mut SeededRandom, scenario: Scenario) -> Self {
        let changes = [Scenario::Policies, Scenario::Sabotage].contains(&scenario);
        let whole = scenario == Scenario::Whole || changes;
        let drawn = scenario == Scenario::Drawn;
        let two = drawn || whole && random.percent(50);
        let recall = if scenario == Scenario::PromoteWithdraw {
            "withdraw"
        } else {
            random.pick(&["flag", "withdraw"])
        };
        let soak = if whole {
            random.pick(&[None, None, Some("40s")])
        } else {
            None
        };
        let mut policies = vec![Written::gate(recall, soak)];
        if two {
            policies.push(Written::second(recall, soak));
        }
        if drawn {
            policies.clear();
        }
        Self {
            scenario,
            acts: match scenario {
                Scenario::Whole => 4 + random.below(8),
                Scenario::Policies | Scenario::Sabotage => 6 + random.below(10),
                _ => 5,
            },
            faults: random.below(5),
            fault_percent: 1 + random.number() % 4,
            crashes: random.below(4),
            stalls: random.pick(&[0, 4, 12]),
            act_per_mille: 5 + random.below(30),
            policies,
            keep: match scenario {
                Scenario::Whole | Scenario::Policies | Scenario::Sabotage => {
                    random.pick(&[0, 0, 2, 1])
                }
                Scenario::PromoteWithdraw | Scenario::Drawn => 0,
                Scenario::PrunePromote => 1,
            },
            mirrors: if two { vec!["a", "b"] } else { vec!["a"] },
            purged: false,
            deletes: random.percent(70),
        }
    }

    /// The policies, as they are now.
    pub fn policies(&self) -> String {
        self.policies.iter().map(Written::text).collect()
    }

    fn resources(&self) -> String {
        let on_delete = if self.deletes { "delete" } else { "keep" };
        let mut text = self.policies();
        for name in &self.mirrors {
            text += &format!(
                "kind: Mirror\nname: {name}\nfrom: {UPSTREAM}/{name}\nto: hub/{name}\ntags: {{ include: ['*'] }}\non_delete: {on_delete}\nevery: 15m\n---\n"
            );
        }
        text += &format!("kind: Repository\nname: hub/*\nkeep: {}\n---\n", self.keep);
        text += "kind: PruningPolicy\nname: nightly\nrepositories: [hub/*]\nschedule: '0 3 * * *'\ndelete: tag == \"3\"\n";
        text
    }
}

/// Applies the resources of a text.
pub fn apply(history: &History, text: &str) {
    if text.is_empty() {
        return;
    }
    for document in parse_documents(text).unwrap() {
        let resource: &Resource = &document.resource;
        at_once(&history.shared, async {
            history
                .state
                .apply(&history.bus, resource, "person")
                .await
                .unwrap();
        });
    }
}

/// Applies the resources, and lets upstream have its first tags.
pub fn begin(history: &mut History) {
    let text = history.plan.resources();
    apply(history, &text);
    let scenario = history.plan.scenario;
    let mirrors = history.plan.mirrors.clone();
    let mut world = history.shared.lock();
    for (place, mirror) in mirrors.iter().enumerate() {
        let count = if scenario == Scenario::PromoteWithdraw {
            1
        } else {
            1 + world.random.below(TAGS.len())
        };
        for tag in &TAGS[..count] {
            move_tag(&mut world, mirror, tag, place);
        }
    }
    for mirror in mirrors {
        tick(&mut world, mirror);
    }
}

/// Lets a tag upstream point to some image.
pub fn move_tag(world: &mut World, mirror: &str, tag: &str, offset: usize) {
    let image = &POOL[(world.random.below(POOL.len()) + offset) % POOL.len()];
    world.upstream.push(mirror, tag, image);
    world.note(&format!("upstream {mirror}:{tag} points to {}", image.name));
}

/// It is time to poll a mirror.
pub fn tick(world: &mut World, mirror: &str) {
    let command: Command = PollMirror {
        mirror: mirror.parse().unwrap(),
        urgent: true,
    }
    .into();
    let due = |name: &str, value: &str| (name.to_owned(), headers::encode(value));
    let message = Outgoing {
        subject: format!("sluice.due.{}", command.topic()),
        headers: vec![
            due(headers::TYPE, command.type_name()),
            due("Nats-Scheduler", &format!("sluice.schedule.poll.{mirror}")),
        ],
        payload: command.encode().into(),
        message_id: None,
        expected_sequence: None,
        ttl: None,
    };
    let now = world.now;
    world.log.publish(now, &message).unwrap();
    world.note(&format!("it is time to poll {mirror}"));
}

/// Gives a command.
pub fn ask(history: &History, command: impl Into<Command>) {
    let command = command.into();
    history
        .shared
        .lock()
        .note(&format!("somebody asks: {command:?}"));
    at_once(&history.shared, async {
        history.bus.command(&command, &Cause::root()).await.unwrap();
    });
}

/// The newest database finds something else; every image is looked at again.
pub fn new_database(history: &History) {
    let images = {
        let mut world = history.shared.lock();
        let image = &POOL[world.random.below(3)];
        if !world.bad.remove(&image.digest) {
            world.bad.insert(image.digest.clone());
        }
        world.database += 1;
        let bad: Vec<String> = world.bad.iter().map(|digest| short(digest)).collect();
        let line = format!("database {} finds {}", world.database, bad.join(", "));
        world.note(&line);
        rescan(&world)
    };
    for image in images {
        ask(history, image);
    }
}

/// Returns what the scanner adapter would look at again with a newer database: what local tags name, and what was promoted.
fn rescan(world: &World) -> Vec<ScanImage> {
    let tags = world.tags.values();
    let named = tags.map(|entry| (&entry.repository, &entry.tag, &entry.digest));
    let decisions = world.decisions.values();
    let promoted = decisions.filter(|decision| decision.promoted_at.is_some());
    let promoted =
        promoted.map(|decision| (&decision.target, &decision.target_tag, &decision.digest));
    let mut images = Vec::new();
    for (repository, tag, digest) in named.chain(promoted) {
        let (Ok(repository), Ok(digest)) = (repository.parse(), digest.parse()) else {
            continue;
        };
        let image = ScanImage {
            repository,
            tag: tag.parse().ok(),
            digest,
        };
        if !images.contains(&image) {
            images.push(image);
        }
    }
    images
}

/// Somebody asks for an evaluation of every tag.
pub fn rejudge(history: &History) {
    let subjects: Vec<JudgeImage> = {
        let world = history.shared.lock();
        let tags = world
            .tags
            .values()
            .filter(|entry| entry.repository.starts_with("hub/"));
        tags.filter_map(|entry| {
            Some(JudgeImage {
                repository: entry.repository.parse().ok()?,
                tag: entry.tag.parse().ok()?,
                digest: entry.digest.parse().ok()?,
            })
        })
        .collect()
    };
    for subject in subjects {
        ask(history, subject);
    }
}

/// Does one thing.
pub async fn act(history: &mut History) {
    let roll = history.shared.lock().random.below(100);
    match history.plan.scenario {
        Scenario::Whole => whole(history, roll).await,
        Scenario::Policies | Scenario::Sabotage if roll < 35 => {
            history.shared.lock().policies_changed = true;
            policies::change(history, SeededRandom::below);
        }
        Scenario::Sabotage if roll < 60 => sabotage::act(history),
        Scenario::Policies | Scenario::Sabotage => {
            let roll = history.shared.lock().random.below(100);
            whole(history, roll).await;
        }
        Scenario::PromoteWithdraw if roll < 45 => new_database(history),
        Scenario::PromoteWithdraw if roll < 70 => rejudge(history),
        Scenario::PrunePromote if roll < 20 => new_database(history),
        Scenario::PrunePromote if roll < 45 => {
            let mut world = history.shared.lock();
            let tag = world.random.pick(&TAGS);
            move_tag(&mut world, "a", tag, 0);
            tick(&mut world, "a");
        }
        Scenario::PrunePromote if roll < 70 => prune(history),
        _ if roll < 90 => fate(history).await,
        _ => {
            let seconds = 1 + i64::try_from(history.shared.lock().random.below(40)).unwrap();
            history.pass(TimeDelta::seconds(seconds)).await;
        }
    }
}

async fn whole(history: &mut History, roll: usize) {
    let mirror = {
        let mirrors = history.plan.mirrors.clone();
        history.shared.lock().random.pick(&mirrors)
    };
    match roll {
        0..24 => {
            let mut world = history.shared.lock();
            let tag = world.random.pick(&TAGS);
            move_tag(&mut world, mirror, tag, 0);
            if world.random.percent(60) {
                tick(&mut world, mirror);
            }
        }
        24..40 => tick(&mut history.shared.lock(), mirror),
        40..46 => {
            let mut world = history.shared.lock();
            let tag = world.random.pick(&TAGS);
            let place = world.upstream.repositories.get_mut(mirror).unwrap();
            // A listing that is empty says nothing of what is gone.
            if place.tags.len() > 1 && place.tags.remove(tag).is_some() {
                world.note(&format!("upstream {mirror}:{tag} is deleted"));
            }
        }
        46..60 => new_database(history),
        60..67 => {
            let mut recall = "";
            for policy in &mut history.plan.policies {
                recall = policy.toggle_recall();
            }
            let text = history.plan.policies();
            history
                .shared
                .lock()
                .note(&format!("policies now {recall}"));
            apply(history, &text);
            reconcile(history, &topology::PROMOTER);
        }
        67..73 => prune(history),
        73..87 => fate(history).await,
        87..97 => {
            let seconds = history.shared.lock().random.pick(&[1, 3, 10, 31, 45, 90]);
            history.pass(TimeDelta::seconds(seconds)).await;
        }
        97..99 => {
            history.plan.purged = true;
            let mut world = history.shared.lock();
            world.log.purge_events(&RECONCILED);
            world.note("the facts that nobody has taken yet are purged");
            drop(world);
            for stage in RECONCILED {
                reconcile(history, stage);
            }
        }
        _ => history.pass(TimeDelta::hours(3)).await,
    }
}

fn prune(history: &History) {
    let by_policy = history.shared.lock().random.percent(60);
    ask(
        history,
        PruneRepositories {
            policy: by_policy.then(|| "nightly".parse().unwrap()),
            repository: None,
        },
    );
}

/// Asks a stage to search for what is missing.
pub fn reconcile(history: &History, stage: &Stage) {
    ask(history, reconcile::command(stage, reason::ASKED));
}

/// A crash, a connection that is made anew, or a message that is delivered a second time although somebody works on it.
async fn fate(history: &mut History) {
    let crash = history.plan.crashes > 0 && history.shared.lock().random.percent(60);
    if crash {
        history.plan.crashes -= 1;
        let place = history.shared.lock().random.below(history.processes.len());
        history.crash(place);
        return;
    }
    let mut world = history.shared.lock();
    if world.random.percent(30) {
        world.reconnect();
        return;
    }
    let out: Vec<usize> = (0..world.log.items.len())
        .filter(|place| world.log.items[*place].ready.is_none())
        .collect();
    if !out.is_empty() {
        let place = world.random.pick(&out);
        let now = world.now;
        world.log.items[place].ready = Some(now);
        let line = format!("{} is given out again", world.log.items[place].subject());
        world.note(&line);
    }
}

/// Does what schedules do sooner or later: polls, limits, and every reconcile.
pub fn finish(history: &mut History) {
    for mirror in history.plan.mirrors.clone() {
        tick(&mut history.shared.lock(), mirror);
    }
    if history.plan.keep > 0 {
        ask(
            history,
            PruneRepositories {
                policy: None,
                repository: None,
            },
        );
    }
    if std::mem::take(&mut history.plan.purged) {
        let images = rescan(&history.shared.lock());
        for image in images {
            ask(history, image);
        }
    }
    for stage in RECONCILED {
        reconcile(history, stage);
    }
}
