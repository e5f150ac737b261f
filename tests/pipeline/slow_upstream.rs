//! A poll of an upstream that takes longer than one message may: it makes progress, and goes on where it stopped.

use std::time::Duration;

use sluice_tests::slow_upstream::SlowUpstream;
use sluice_tests::{Stack, wait_for};

/// How many tags it has.
const TAGS: usize = 120;
/// How long it takes to answer for one of them; all of them together take longer than all attempts at one poll.
const TAKES: Duration = Duration::from_millis(250);

#[test]
fn a_mirror_with_more_slow_tags_than_one_poll_has_time_for_is_polled_to_its_end() {
    let slow = SlowUpstream::start(TAGS, TAKES);
    let mut stack = Stack::quick(7_200);
    let limits = [
        ("SLUICE__POLLER__TIMEOUT_SECONDS", "4"),
        ("SLUICE__POLLER__PARALLEL_HEADS", "1"),
    ];
    let first = stack.service("poller", &limits);
    stack.apply(&slow.resources());
    wait_for("a part of the tags to be told", 60, || {
        (stack.events("upstream.tag_moved").len() >= TAGS / 4).then_some(())
    });
    stack.kill(first);
    stack.service("poller", &limits);
    let told = wait_for("every tag to be told", 90, || {
        let told = stack.events("upstream.tag_moved");
        (told.len() >= TAGS).then_some(told.len())
    });
    assert_eq!(told, TAGS, "each once");
    // What was under way at the end of a part, or when the process died, is asked for once more.
    let asked = slow.asked();
    assert!(asked < TAGS * 2, "{asked}");
}
