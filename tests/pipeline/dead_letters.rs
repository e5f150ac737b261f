//! What cannot be done is kept with its reason, and can be done again.

use sluice_tests::dishonest_registry::{Liar, Lie};
use sluice_tests::{Stack, wait_for};

#[test]
fn an_image_that_cannot_be_copied_becomes_a_dead_letter_and_its_neighbour_arrives() {
    let mut stack = Stack::start(7_200);
    let publisher = stack.publisher();
    let image = publisher.image("library/app", "amd64", "content");
    publisher.put("library/app", "1.0", &image);
    let lost = publisher.image("library/lost", "amd64", "lost");
    publisher.put("library/lost", "1.0", &lost);
    stack.service("poller", &[]);
    let one = stack.mirror("lost", "library/lost", "hub/lost", "");
    stack.apply(&format!("{}{one}", stack.upstream_resource()));
    wait_for("the move to be told", 30, || {
        (stack.events("upstream.tag_moved").len() == 1).then_some(())
    });
    // It disappears between the poll and the copy.
    publisher.delete("library/lost", &lost.digest);
    let other = stack.mirror("app", "library/app", "hub/app", "");
    stack.apply(&other);
    stack.service("mirror-worker", &[]);
    let reader = stack.reader();
    wait_for("the neighbour to arrive", 60, || {
        reader.get("hub/app", "1.0")
    });
    let letters = wait_for("the dead letter", 60, || {
        Some(stack.sluice(&["dead-letters", "list"])).filter(|l| l.contains("mirror-worker"))
    });
    assert!(letters.contains("does not exist"), "{letters}");
    assert_eq!(stack.events("tag.mirror_failed").len(), 1);
    // Once the publisher has it again, the stage that failed finishes the work.
    publisher.put("library/lost", &lost.digest, &lost);
    stack.sluice(&["dead-letters", "retry", "--all"]);
    wait_for("the image to arrive after all", 60, || {
        (reader.get("hub/lost", "1.0")? == lost.raw).then_some(())
    });
    assert_eq!(
        stack.events("upstream.tag_moved").len(),
        2,
        "a redrive tells nothing anew"
    );
}

#[test]
fn an_upstream_that_fails_is_told_once_and_so_is_its_recovery() {
    let mut stack = Stack::start(7_200);
    stack.service("poller", &[]);
    let mirror = stack.mirror("late", "library/late", "hub/late", "every: 2s\n");
    stack.apply(&format!("{}{mirror}", stack.upstream_resource()));
    wait_for("several polls to fail", 30, || {
        (stack.status()["mirrors"][0]["failures"].as_u64()? >= 2).then_some(())
    });
    assert_eq!(stack.events("upstream.poll_failed").len(), 1);
    let image = stack.publisher().image("library/late", "amd64", "late");
    stack.publisher().put("library/late", "1.0", &image);
    wait_for("the recovery to be told", 30, || {
        (stack.events("upstream.poll_recovered").len() == 1).then_some(())
    });
    // Nobody mirrors in this test.
    stack.may_leave_messages();
}

#[test]
fn an_image_that_is_not_copied_within_its_time_is_told_as_failed() {
    let mut stack = Stack::start(7_200);
    stack.may_leave_messages();
    let liar = Liar::before(&stack.upstream.host);
    liar.lie("library/slow/blobs/", Lie::Silence);
    let publisher = stack.publisher();
    let image = publisher.image("library/slow", "amd64", "content");
    publisher.put("library/slow", "1.0", &image);
    stack.service("poller", &[]);
    stack.service("mirror-worker", &[("SLUICE__MIRROR__TIMEOUT_SECONDS", "1")]);
    let host = &liar.host;
    stack.apply(&format!(
        "kind: Registry\nname: slow\nhost: {host}\nplain_http: true\n---\nkind: Mirror\nname: slow\nfrom: {host}/library/slow\nto: hub/slow\nevery: 1h\n"
    ));
    // Eight attempts, about two minutes of waiting between them.
    let failed = wait_for("the last attempt to be told", 300, || {
        stack.events("tag.mirror_failed").pop()
    });
    assert_eq!(failed["data"]["repository"], "hub/slow", "{failed}");
    let reason = failed["data"]["reason"].to_string();
    assert!(reason.contains("not mirrored within 1s"), "{reason}");
    wait_for("the dead letter", 30, || {
        (stack.status()["deadLetters"] == 1).then_some(())
    });
    assert_eq!(stack.events("tag.mirror_failed").len(), 1);
}
