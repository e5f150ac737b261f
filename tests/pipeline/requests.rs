//! What an image costs at the internal registry, from mirror to promotion.

use sluice_state::key;
use sluice_tests::content::{NEW_LIBC, debian};
use sluice_tests::{Database, Stack, Upstream, wait_for};

const POLICY: &str = "---
kind: PromotionPolicy
name: clean
from: hub/*
to: official/{name}
when: scan.critical == 0 && scan.high == 0
";

/// Starts every stage once, and mirrors one repository beside two others, every two seconds.
fn pipeline() -> (Stack, Upstream) {
    let mut stack = Stack::start(7_200);
    Database::of("2020-01-02T00:00:00Z").publish(&stack);
    for stage in [
        "poller",
        "mirror-worker",
        "promoter",
        "pruner",
        "webhook-dispatcher",
    ] {
        stack.service(stage, &[]);
    }
    stack.scanner(&[]);
    let publisher = stack.publisher();
    let mut resources = stack.upstream_resource() + POLICY;
    for name in ["app", "other", "third"] {
        publish(&publisher, name, "0.1");
        let from = format!("library/{name}");
        resources += &stack.mirror(name, &from, &format!("hub/{name}"), "every: 2s\n");
    }
    stack.apply(&resources);
    (stack, publisher)
}

/// Publishes an image of one platform with two blobs that nobody has.
fn publish(publisher: &Upstream, name: &str, tag: &str) {
    let note = format!("{name} {tag}");
    let files = debian(&[NEW_LIBC]);
    let files: Vec<(&str, &str)> = files.into_iter().chain([("note", note.as_str())]).collect();
    let image = publisher.files(&format!("library/{name}"), "amd64", &files);
    publisher.put(&format!("library/{name}"), tag, &image);
}

fn promoted(stack: &Stack, count: usize) {
    wait_for(&format!("{count} images to be promoted"), 120, || {
        (stack.events("image.promoted").len() == count).then_some(())
    });
    wait_for("every stage to be done", 60, || {
        stack.is_quiet().then_some(())
    });
}

#[test]
fn a_new_image_costs_at_most_twenty_requests_and_no_token() {
    let (stack, publisher) = pipeline();
    // The services learn what the registry can do, and get their tokens, with the first images.
    for tag in ["0.2", "0.3"] {
        publish(&publisher, "app", tag);
    }
    promoted(&stack, 5);
    let tokens = |stack: &Stack| {
        let asked = stack.before_gateway.requests();
        asked
            .into_iter()
            // What the gateway compares once after a start is no part of it.
            .filter(|request| request.contains("/token") && !request.contains("catalog"))
            .collect::<Vec<_>>()
    };
    let (before, tokens_before) = (stack.internal.requests().len(), tokens(&stack).len());
    publish(&publisher, "app", "1.0");
    promoted(&stack, 6);
    let mut requests = stack.internal.requests().split_off(before);
    requests.retain(|request| request.contains("/app/"));
    let tokens = tokens(&stack).split_off(tokens_before);
    assert!(
        requests.len() <= 20 && tokens.is_empty(),
        "{} requests, {} of tokens: {requests:#?} {tokens:#?}",
        requests.len(),
        tokens.len()
    );
}

#[test]
fn no_push_promotion_or_deletion_lists_the_tags_of_a_repository() {
    let (stack, publisher) = pipeline();
    let account = stack.account("ci", "push: ['team/*']\n");
    stack.apply(account.trim_start_matches("---\n"));
    let ci = Upstream::with_account(&stack.internal.host, "ci", "cici");
    wait_for("the gateway to know the account", 20, || {
        (ci.try_upload("team/app") == 202).then_some(())
    });
    promoted(&stack, 3);
    // After its own start and that of the registry the gateway compares everything once.
    wait_for("both comparisons", 60, || {
        let requests = stack.internal.requests();
        let comparisons = requests
            .iter()
            .filter(|one| one.ends_with("/_catalog?n=20"));
        (comparisons.count() == 2).then_some(())
    });
    let before = stack.internal.requests().len();
    publish(&publisher, "app", "1.0");
    let image = ci.files("team/app", "amd64", &debian(&[NEW_LIBC]));
    ci.put("team/app", "1.0", &image);
    promoted(&stack, 4);
    ci.delete("team/app", &image.digest);
    let key = key::tag(&"team/app".parse().unwrap(), &"1.0".parse().unwrap());
    let bus = stack.bus();
    wait_for("the deletion to be recorded", 60, || {
        let entry = bus.run(bus.state.tags.get(&key)).unwrap()?;
        entry.value.digest.is_empty().then_some(())
    });
    let requests = stack.internal.requests().split_off(before);
    let listings = requests.iter().filter(|one| one.contains("/tags/list"));
    assert_eq!(listings.count(), 0, "{requests:#?}");
}
