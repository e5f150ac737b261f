//! An upstream that limits pulls is asked for no more than it gives, by all workers together.

use std::time::Duration;

use sluice_tests::{Limited, Stack, wait_for};

/// The pulls of a window, and how many of them are kept for people.
const LIMIT: u64 = 100;
const RESERVE: u64 = 10;
const WINDOW: Duration = Duration::from_secs(20);

/// Each image is an index of two platforms: three pulls.
fn publish(stack: &Stack, repository: &str, tags: usize) {
    let publisher = stack.publisher();
    let repository = format!("library/{repository}");
    for tag in 0..tags {
        let content = format!("{repository} {tag}");
        let amd64 = publisher.image(&repository, "amd64", &content);
        let arm64 = publisher.image(&repository, "arm64", &content);
        let children = [("amd64", &amd64), ("arm64", &arm64)];
        let index = publisher.index(&repository, &children);
        publisher.put(&repository, &tag.to_string(), &index);
    }
}

fn registry(host: &str, reserve: u64) -> String {
    format!(
        "kind: Registry\nname: limited\nhost: {host}\nplain_http: true\nreserve: {reserve}\n---\n"
    )
}

fn mirror(host: &str, name: &str, more: &str) -> String {
    format!("kind: Mirror\nname: {name}\nfrom: {host}/library/{name}\nto: hub/{name}\n{more}---\n")
}

#[test]
fn four_workers_never_ask_for_more_pulls_than_there_are_and_leave_the_reserve() {
    let mut stack = Stack::start(120);
    let limited = Limited::between(&stack.upstream.host, LIMIT, WINDOW);
    for name in ["a", "b", "c", "d"] {
        publish(&stack, name, 12);
    }
    for _ in 0..4 {
        stack.service("mirror-worker", &[]);
    }
    let mut yaml = registry(&limited.host, RESERVE);
    for name in ["a", "b", "c", "d"] {
        yaml.push_str(&mirror(&limited.host, name, ""));
    }
    stack.apply(&yaml);
    stack.service("poller", &[]);
    wait_for("every tag to arrive", 180, || {
        (stack.events("tag.mirrored").len() >= 48).then_some(())
    });
    let counted = limited.counted();
    assert_eq!(counted.refused, 0, "{counted:?}");
    let pulls: u64 = counted.pulls.iter().sum();
    // A worker that has to wait in the middle of an image asks again for what it had not written yet.
    let needed = 4 * 12 * 3;
    assert!((needed..needed + 24).contains(&pulls), "{counted:?}");
    assert!(
        counted.pulls.iter().all(|pulls| *pulls <= LIMIT - RESERVE),
        "{counted:?}"
    );
    assert!(counted.pulls.iter().filter(|pulls| **pulls > 0).count() >= 2);
    assert!(stack.events("tag.mirror_failed").is_empty());
    let status = stack.status();
    let budget = &status["budgets"][0];
    assert_eq!(budget["limit"], LIMIT, "{status}");
    assert_eq!(budget["reserve"], RESERVE, "{status}");
}

/// What happens where nobody counts: the guard has something to hold back.
#[test]
fn whoever_does_not_count_is_refused() {
    let stack = Stack::start(120);
    let limited = Limited::between(&stack.upstream.host, 3, Duration::from_secs(600));
    publish(&stack, "a", 2);
    let reader = sluice_tests::Upstream::new(&limited.host);
    let mut answers: Vec<u16> = Vec::new();
    for _ in 0..4 {
        answers.push(reader.status("library/a/manifests/0"));
    }
    assert_eq!(answers, [200, 200, 200, 429]);
    assert_eq!(limited.counted().refused, 1);
}

#[test]
fn a_person_may_spend_the_reserve_while_a_schedule_waits() {
    let mut stack = Stack::start(120);
    let limited = Limited::between(&stack.upstream.host, 12, Duration::from_secs(3_600));
    publish(&stack, "bulk", 4);
    stack.service("mirror-worker", &[]);
    stack.service("poller", &[]);
    let bulk = mirror(&limited.host, "bulk", "");
    stack.apply(&format!("{}{bulk}", registry(&limited.host, 6)));
    // Two images cost the six pulls that are not kept.
    wait_for("what may be spent to be spent", 60, || {
        (limited.counted().pulls[0] == 6).then_some(())
    });
    // Nothing is there yet when the mirror is polled for the first time, which nobody asked for.
    stack.apply(&mirror(&limited.host, "wanted", ""));
    wait_for("the first poll", 60, || {
        (stack.events("upstream.poll_failed").len() == 1).then_some(())
    });
    publish(&stack, "wanted", 1);
    stack.sluice(&["poll", "wanted"]);
    wait_for("what a person waits for", 60, || {
        let facts = stack.events("tag.mirrored");
        let wanted = facts
            .iter()
            .any(|fact| fact["data"]["repository"] == "hub/wanted");
        wanted.then_some(())
    });
    let counted = limited.counted();
    assert_eq!((counted.pulls[0], counted.refused), (9, 0), "{counted:?}");
    stack.may_leave_messages();
}

#[test]
fn what_waits_already_comes_first_when_a_person_polls() {
    let mut stack = Stack::start(120);
    let limited = Limited::between(&stack.upstream.host, 12, Duration::from_secs(3_600));
    publish(&stack, "bulk", 2);
    publish(&stack, "wanted", 1);
    stack.service("mirror-worker", &[]);
    stack.service("poller", &[]);
    let bulk = mirror(&limited.host, "bulk", "");
    stack.apply(&format!("{}{bulk}", registry(&limited.host, 6)));
    wait_for("what may be spent to be spent", 60, || {
        (stack.events("tag.mirrored").len() == 2).then_some(())
    });
    // Its move is told, and waits for the next window.
    stack.apply(&mirror(&limited.host, "wanted", ""));
    wait_for("its move to wait", 60, || {
        let is_told = stack.events("upstream.tag_moved").len() == 3;
        let waits = stack.status()["stages"]
            .as_array()
            .is_some_and(|stages| stages.iter().any(|stage| stage["later"].as_u64() > Some(0)));
        (is_told && waits).then_some(())
    });
    assert_eq!(stack.events("tag.mirrored").len(), 2);
    // What is here already is not brought again.
    stack.sluice(&["poll", "bulk"]);
    stack.sluice(&["poll", "wanted"]);
    wait_for("what a person waits for", 60, || {
        (stack.events("tag.mirrored").len() == 3).then_some(())
    });
    let counted = limited.counted();
    assert_eq!((counted.pulls[0], counted.refused), (9, 0), "{counted:?}");
    assert_eq!(stack.events("upstream.tag_moved").len(), 3);
    stack.may_leave_messages();
}

#[test]
fn an_account_that_was_refused_does_not_hold_up_another() {
    let mut stack = Stack::start(120);
    let spent = Limited::between(&stack.upstream.host, 2, Duration::from_secs(3_600));
    let other = Limited::between(&stack.upstream.host, 1_000, Duration::from_secs(3_600));
    publish(&stack, "a", 3);
    publish(&stack, "b", 3);
    stack.service("mirror-worker", &[("SLUICE__MIRROR__CONCURRENCY", "1")]);
    stack.service("poller", &[]);
    let second = registry(&other.host, 0).replace("name: limited", "name: other");
    stack.apply(&format!(
        "{}{second}{}{}",
        registry(&spent.host, 0),
        mirror(&spent.host, "a", ""),
        mirror(&other.host, "b", "")
    ));
    wait_for("the other account's images", 60, || {
        (stack.events("tag.mirrored").len() == 3).then_some(())
    });
    assert_eq!(spent.counted().refused, 0);
    stack.may_leave_messages();
}
