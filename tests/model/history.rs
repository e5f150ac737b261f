//! One history: processes that take turns at random, with faults and people between, then peace, and what must hold.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use chrono::TimeDelta;
use sluice_domain::clock;
use sluice_state::State;
use tokio_util::sync::CancellationToken;

use crate::operator_actions::{self, Plan};
use crate::stages::{self, Machine, Work};
use crate::world::{Bug, Doing, Fate, Shared, beginning};

/// How many messages a process works on at once.
const PLACES: usize = 2;
/// A history that takes longer than this does not come to rest.
const MOST_STEPS: u64 = 60_000;

/// What the history is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Everything.
    Whole,
    /// One image, allowed and refused in turn, by two promoters.
    PromoteWithdraw,
    /// One repository, promoted from and pruned.
    PrunePromote,
    /// Policies that are removed, renamed, narrowed, switched off, tightened and led elsewhere, in the middle of everything.
    Policies,
    /// The same, and a mirror worker or pruner that writes whatever its account may.
    Sabotage,
    /// Policies that are drawn at random, between two mirrors and shared targets.
    Drawn,
}

/// How a history ended.
#[derive(Debug)]
pub struct Ended {
    /// What was wrong.
    pub violation: Option<String>,
    /// Of all steps.
    pub hash: u64,
    /// How many steps it took.
    pub steps: u64,
    /// The steps, if they were asked for.
    pub trace: Vec<String>,
}

/// A process.
pub struct Process {
    /// Its name.
    pub name: String,
    /// Its stage.
    pub stage: &'static str,
    /// What it runs.
    pub machine: Machine,
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Task {
    number: usize,
    process: usize,
    works: bool,
    flag: Arc<Flag>,
    future: Work,
    slow: bool,
    stalls_at: u64,
    stalled_until: Option<chrono::DateTime<chrono::Utc>>,
}

/// A history under way.
pub struct History {
    /// The world.
    pub shared: Shared,
    /// The processes.
    pub processes: Vec<Process>,
    /// What people and fate still do.
    pub plan: Plan,
    /// The state, as a person sees it.
    pub state: State,
    /// The bus, as a person uses it.
    pub bus: sluice_bus::Bus,
    tasks: Vec<Task>,
    numbers: usize,
}

/// Runs the history of a seed.
pub fn run(seed: u64, scenario: Scenario, bug: Option<Bug>, traced: bool) -> Ended {
    let shared = Shared::new(seed, bug, traced);
    simulate(seed, shared, scenario, async |history| {
        history.live().await;
        if history.shared.lock().violation.is_none() {
            history.rest().await;
        }
    })
}

/// Runs a history in which what people do is written down by a test; random decides who goes first.
pub fn follow(seed: u64, scenario: Scenario, script: impl AsyncFnOnce(&mut History)) {
    let ended = simulate(seed, Shared::new(seed, None, false), scenario, script);
    assert_eq!(ended.violation, None, "seed {seed}");
}

fn simulate(
    seed: u64,
    shared: Shared,
    scenario: Scenario,
    script: impl AsyncFnOnce(&mut History),
) -> Ended {
    clock::simulate(beginning(), seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let world = shared.clone();
    runtime.block_on(async move {
        let mut history = History::new(shared, scenario);
        script(&mut history).await;
    });
    clock::stop_simulating();
    let mut world = world.lock();
    Ended {
        violation: world.violation.take(),
        hash: world.hash,
        steps: world.steps,
        trace: world.trace.take().unwrap_or_default(),
    }
}

impl History {
    fn new(shared: Shared, scenario: Scenario) -> Self {
        shared.lock().doing.insert(0, Doing::default());
        let backend = Arc::new(crate::backend::Server(shared.clone()));
        let bus = sluice_bus::Bus::simulated(backend, "person");
        let state = stages::at_once(&shared, async { State::open(&bus).await.unwrap() });
        let plan = Plan::new(&mut shared.lock().random, scenario);
        let mut history = Self {
            shared,
            processes: Vec::new(),
            plan,
            state,
            bus,
            tasks: Vec::new(),
            numbers: 0,
        };
        operator_actions::begin(&mut history);
        let replicas = [
            ("poller", 1),
            ("mirror-worker", 2),
            ("scanner-adapter", 1),
            ("promoter", 2),
            ("pruner", 1),
        ];
        for (stage, count) in replicas {
            for number in 1..=count {
                history.start(format!("{stage} {number}"), stage, None);
            }
        }
        history
    }

    fn start(&mut self, name: String, stage: &'static str, place: Option<usize>) {
        let (machine, feed) = stages::start(&self.shared, stage);
        let process = Process {
            name: name.clone(),
            stage,
            machine,
        };
        let place = match place {
            Some(place) => {
                self.processes[place] = process;
                place
            }
            None => {
                self.processes.push(process);
                self.processes.len() - 1
            }
        };
        let stopping = CancellationToken::new();
        let feed: Work = Box::pin(async move { drop(feed.run(stopping).await) });
        self.spawn(
            place,
            format!("{name} catalogue"),
            String::new(),
            feed,
            false,
        );
    }

    fn spawn(&mut self, process: usize, name: String, id: String, work: Work, works: bool) {
        self.numbers += 1;
        let mut world = self.shared.lock();
        let since = world.steps;
        let doing = Doing {
            name,
            id,
            since,
            kept_back: Vec::new(),
        };
        world.doing.insert(self.numbers, doing);
        let slow = works && world.random.percent(20);
        let stalls = works && world.random.percent(self.plan.stalls);
        let stalls_at = if stalls {
            since + 1 + u64::try_from(world.random.below(120)).unwrap()
        } else {
            u64::MAX
        };
        drop(world);
        self.tasks.push(Task {
            number: self.numbers,
            process,
            works,
            flag: Arc::new(Flag(AtomicBool::new(true))),
            // The budget of a task is for a runtime with others; here it would never be renewed.
            future: Box::pin(tokio::task::unconstrained(work)),
            slow,
            stalls_at,
            stalled_until: None,
        });
    }

    /// Lets every task go as far as it can without a step.
    fn poll(&mut self) {
        while let Some(place) = self
            .tasks
            .iter()
            .position(|task| task.flag.0.load(Ordering::Relaxed))
        {
            let task = &mut self.tasks[place];
            task.flag.0.store(false, Ordering::Relaxed);
            let mut world = self.shared.lock();
            world.task = task.number;
            clock::set_simulated(world.now);
            drop(world);
            let waker = Waker::from(task.flag.clone());
            let polled = pin!(&mut task.future).poll(&mut Context::from_waker(&waker));
            if polled == Poll::Ready(()) {
                let number = task.number;
                drop(self.tasks.remove(place));
                let mut world = self.shared.lock();
                world.task = number;
                world.let_go();
                world.doing.remove(&number);
            }
        }
        self.shared.lock().task = 0;
    }

    /// Returns the places of the steps that can be let go.
    fn steps(&self) -> Vec<usize> {
        let world = self.shared.lock();
        let has_news = |watch: usize| !world.watches[watch].1.is_empty();
        let stalls = |number: usize| {
            let task = self.tasks.iter().find(|task| task.number == number);
            task.and_then(|task| task.stalled_until)
                .is_some_and(|until| until > world.now)
        };
        (0..world.waiting.len())
            .filter(|place| {
                let waiting = &world.waiting[*place];
                waiting.watch.is_none_or(has_news) && !stalls(waiting.task)
            })
            .collect()
    }

    /// Returns the messages that some process has a place for, each with the process.
    fn deliveries(&self) -> Vec<(usize, usize)> {
        let world = self.shared.lock();
        let mut found = Vec::new();
        for (place, item) in world.log.items.iter().enumerate() {
            if item.ready.is_none_or(|ready| ready > world.now) {
                continue;
            }
            for (number, process) in self.processes.iter().enumerate() {
                let busy = |task: &&Task| task.process == number && task.works;
                if process.stage == item.stage.name
                    && self.tasks.iter().filter(busy).count() < PLACES
                {
                    found.push((place, number));
                }
            }
        }
        found
    }

    fn deliver(&mut self, (place, process): (usize, usize)) {
        let name = self.processes[process].name.clone();
        let (delivery, id, label) = {
            let mut world = self.shared.lock();
            let now = world.now;
            let delivery = world.log.deliver(place, now);
            let item = &world.log.items[place];
            let (id, label) = (item.id.clone(), format!("{name} #{}", delivery.receipt));
            let line = format!("{label} takes {} {id}", item.subject());
            world.note(&line);
            (delivery, id, label)
        };
        let work = self.processes[process].machine.process(delivery);
        self.spawn(process, label, id, work, true);
    }

    fn grant(&mut self, steps: &[usize]) {
        let mut world = self.shared.lock();
        let mut place = world.random.pick(steps);
        let task = place_of(&self.tasks, world.waiting[place].task);
        if task.is_some_and(|task| self.tasks[task].slow) && world.random.percent(80) {
            place = world.random.pick(steps);
        }
        let (number, steps, now) = (world.waiting[place].task, world.steps, world.now);
        if let Some(task) = place_of(&self.tasks, number).map(|task| &mut self.tasks[task])
            && steps >= task.stalls_at
        {
            task.stalls_at = u64::MAX;
            let seconds = 20 + i64::try_from(world.random.below(60)).unwrap();
            task.stalled_until = Some(now + TimeDelta::seconds(seconds));
            let line = format!("{} stalls", world.doing[&number].name);
            world.note(&line);
            return;
        }
        let works = place_of(&self.tasks, number).is_some_and(|task| self.tasks[task].works);
        let fate = if works && self.plan.faults > 0 && world.random.percent(self.plan.fault_percent)
        {
            self.plan.faults -= 1;
            world.random.pick(&[Fate::Refused, Fate::Unanswered])
        } else {
            Fate::Answered
        };
        world.grant(place, fate);
    }

    /// Kills a process: what it was doing is gone where it was.
    pub fn crash(&mut self, place: usize) {
        let (name, stage) = {
            let process = &self.processes[place];
            (process.name.clone(), process.stage)
        };
        self.shared.lock().note(&format!("{name} crashes"));
        let (gone, left) = std::mem::take(&mut self.tasks)
            .into_iter()
            .partition(|task| task.process == place);
        self.tasks = left;
        let gone: Vec<Task> = gone;
        let numbers: Vec<usize> = gone.iter().map(|task| task.number).collect();
        drop(gone);
        for number in numbers {
            self.shared.lock().doing.remove(&number);
        }
        self.start(name, stage, Some(place));
    }

    /// Steps the clock.
    pub async fn pass(&mut self, time: TimeDelta) {
        let now = {
            let mut world = self.shared.lock();
            world.now += time;
            let now = world.now;
            world.log.tick(now);
            world.note(&format!("{} s pass", time.num_milliseconds() / 1000));
            now
        };
        clock::set_simulated(now);
        tokio::time::advance(time.to_std().unwrap()).await;
    }

    fn settled(&self) -> bool {
        let world = self.shared.lock();
        world.violation.is_some() || world.steps > MOST_STEPS
    }

    fn look(&mut self) {
        let mut world = self.shared.lock();
        world.check();
        if world.steps > MOST_STEPS {
            world.wrong(format!("no rest after {MOST_STEPS} steps"));
        }
    }

    /// Lives through what people and fate have planned.
    async fn live(&mut self) {
        while !self.settled() {
            self.poll();
            self.look();
            let (steps, deliveries) = (self.steps(), self.deliveries());
            let roll = self.shared.lock().random.below(1000);
            if roll < self.plan.act_per_mille || (steps.is_empty() && deliveries.is_empty()) {
                if self.plan.acts == 0 {
                    return;
                }
                self.plan.acts -= 1;
                operator_actions::act(self).await;
            } else if !deliveries.is_empty() && (steps.is_empty() || roll < 250) {
                let delivery = self.shared.lock().random.pick(&deliveries);
                self.deliver(delivery);
            } else {
                self.grant(&steps);
            }
        }
    }

    /// Lets everything come to rest, without faults.
    pub async fn drain(&mut self) {
        self.drain_until(TimeDelta::MAX).await;
    }

    /// Lets everything come to rest that does within this time, which then has passed.
    pub async fn drain_until(&mut self, within: TimeDelta) {
        self.plan.faults = 0;
        let began = self.shared.lock().now;
        while !self.settled() {
            self.poll();
            self.look();
            let (steps, deliveries) = (self.steps(), self.deliveries());
            if !deliveries.is_empty() && (steps.is_empty() || self.shared.lock().random.percent(25))
            {
                let delivery = self.shared.lock().random.pick(&deliveries);
                self.deliver(delivery);
            } else if !steps.is_empty() {
                self.grant(&steps);
            } else {
                let next = {
                    let world = self.shared.lock();
                    world.log.next().map(|next| next - world.now)
                };
                // Tasks that wait for no step wait for the time, but for those that only watch.
                let waits = self.tasks.iter().any(|task| task.works);
                let second = TimeDelta::seconds(1);
                let left = within - (self.shared.lock().now - began);
                match next {
                    _ if left <= TimeDelta::zero() => return,
                    Some(next) if !waits => self.pass(next.max(second).min(left)).await,
                    None if !waits && within < TimeDelta::MAX => self.pass(left).await,
                    _ if waits => self.pass(second).await,
                    _ => return,
                }
            }
        }
    }

    /// Comes to rest, reconciles, and compares the end with what it has to be.
    async fn rest(&mut self) {
        self.drain().await;
        for hour in 0..4 {
            if hour > 0 {
                // What was asked for lately is not asked for again; schedules go on every hour.
                self.pass(TimeDelta::hours(1)).await;
            }
            operator_actions::finish(self);
            self.drain().await;
            if self.settled() {
                return;
            }
            if self.shared.lock().at_rest(&self.plan).is_empty() {
                return;
            }
        }
        let mut world = self.shared.lock();
        if let Some(first) = world.at_rest(&self.plan).into_iter().next() {
            world.wrong(format!("at rest: {first}"));
        }
    }
}

fn place_of(tasks: &[Task], number: usize) -> Option<usize> {
    tasks.iter().position(|task| task.number == number)
}
