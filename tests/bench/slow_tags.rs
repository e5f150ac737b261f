//! Polls one mirror of 10,000 tags whose upstream takes a second for each, with one poller as it is by default.
//!
//! `cargo run --release --example slow_tags [TAGS] [MILLISECONDS]`, after the services were built with the same profile.
#![allow(clippy::disallowed_methods, reason = "it measures real time")]

use std::time::{Duration, Instant};

use sluice_tests::slow_upstream::SlowUpstream;
use sluice_tests::{Stack, pass, wait_for};

/// How long all of it may take.
const LONG: u64 = 3_600;

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse().unwrap());
    let tags = numbers.next().unwrap_or(10_000);
    let takes = Duration::from_millis(numbers.next().unwrap_or(1_000) as u64);
    let slow = SlowUpstream::start(tags, takes);
    let mut stack = Stack::start(7_200);
    let bus = stack.bus();
    stack.apply(&slow.resources());
    let began = Instant::now();
    stack.service("poller", &[]);
    wait_for("every tag to be known", LONG, || {
        pass(Duration::from_secs(1));
        let known = || bus.run(bus.state.upstream.list("*.*")).unwrap().len();
        (slow.asked() >= tags && known() == tags).then_some(())
    });
    println!(
        "{tags} tags at {takes:?} each: {:.1} s, {} requests",
        began.elapsed().as_secs_f64(),
        slow.asked()
    );
}
