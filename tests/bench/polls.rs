//! Polls 2,000 mirrors of 10 tags each of which nothing changed, with one poller, and says what that took.
//!
//! `cargo run --release --example polls [MIRRORS] [TAGS]`, after the services were built with the same profile.
#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::time::{Duration, Instant};

use sluice_events::commands::PollMirror;
use sluice_events::time_from_wire;
use sluice_tests::registry_storage::Many;
use sluice_tests::{BusClient, Stack, pass, wait_for};

/// How long anything may take.
const LONG: u64 = 1_200;

struct Scene {
    stack: Stack,
    bus: BusClient,
    mirrors: usize,
}

impl Scene {
    fn start(mirrors: usize, tags: usize) -> (Self, Many) {
        let stack = Stack::start(7_200);
        let many = Many::in_storage(stack.upstream.storage(), 2);
        for mirror in 0..mirrors {
            let tags = (0..tags).map(|tag| format!("1.{tag}"));
            many.repository(&format!("library/app{mirror}"), tags, 0);
        }
        let bus = stack.bus();
        let mut resources = stack.upstream_resource();
        for mirror in 0..mirrors {
            let from = format!("library/app{mirror}");
            let to = format!("hub/app{mirror}");
            resources += &stack.mirror(&format!("app{mirror}"), &from, &to, "every: 24h\n");
        }
        stack.apply(&resources);
        let scene = Self {
            stack,
            bus,
            mirrors,
        };
        (scene, many)
    }

    /// Polls every mirror once, and returns how long that took.
    fn poll(&self) -> Duration {
        let began = Instant::now();
        let since = chrono::Utc::now();
        for mirror in 0..self.mirrors {
            self.bus.command(PollMirror {
                mirror: format!("app{mirror}").parse().unwrap(),
                urgent: false,
            });
        }
        self.until_polled(since);
        began.elapsed()
    }

    fn until_polled(&self, since: chrono::DateTime<chrono::Utc>) {
        wait_for("every mirror to be polled", LONG, || {
            pass(Duration::from_millis(250));
            let polls = self.bus.run(self.bus.state.polls.list("*")).unwrap();
            let done = polls.iter().filter(|poll| {
                let polled_at = time_from_wire(poll.value.polled_at.as_ref());
                poll.value.failures == 0 && polled_at.is_some_and(|at| at >= since)
            });
            (done.count() == self.mirrors).then_some(())
        });
    }

    fn moves(&self) -> usize {
        let known = self.bus.run(self.bus.state.upstream.list("*.*")).unwrap();
        let moves = known.iter().map(|entry| entry.value.move_number);
        usize::try_from(moves.sum::<u64>()).unwrap()
    }

    /// Returns the peak of the memory in MiB, and the processor time in seconds.
    fn used(&self, poller: usize) -> (f64, f64) {
        let process = self.stack.process_id(poller);
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{process}/{name}")).unwrap();
        let status = read("status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak: f64 = peak
            .unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap();
        let stat = read("stat");
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let fields: Vec<&str> = fields.split(' ').collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        (peak / 1_024.0, ticks / 100.0)
    }
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse().unwrap());
    let (mirrors, tags) = (
        numbers.next().unwrap_or(2_000),
        numbers.next().unwrap_or(10),
    );
    let (mut scene, many) = Scene::start(mirrors, tags);
    scene.stack.may_leave_messages();
    let began = (Instant::now(), chrono::Utc::now());
    let first = scene.stack.service("poller", &[]);
    scene.until_polled(began.1);
    assert_eq!(scene.moves(), mirrors * tags);
    let (peak, busy) = scene.used(first);
    println!(
        "{mirrors} x {tags} tags, all new:       {:6.1} s, {busy:6.1} s of processor time, {peak:5.1} MiB at most",
        began.0.elapsed().as_secs_f64()
    );
    scene.stack.kill(first);
    let poller = scene.stack.service("poller", &[]);
    for round in 1..=3 {
        let (_, before) = scene.used(poller);
        let took = scene.poll().as_secs_f64();
        let (peak, busy) = scene.used(poller);
        println!(
            "{mirrors} x {tags} tags, unchanged, {round}:  {took:6.1} s, {:6.1} s of processor time, {peak:5.1} MiB at most",
            busy - before
        );
    }
    assert_eq!(scene.moves(), mirrors * tags, "nothing moved");
    for mirror in (0..mirrors).step_by(20) {
        for tag in 0..tags {
            many.point(&format!("library/app{mirror}"), &format!("1.{tag}"), 1);
        }
    }
    let took = scene.poll().as_secs_f64();
    let (peak, _) = scene.used(poller);
    let moved = scene.moves() - mirrors * tags;
    println!("{mirrors} x {tags} tags, {moved} moved:  {took:6.1} s, {peak:5.1} MiB at most");
}
