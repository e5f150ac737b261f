//! The gateway dies between the two facts of one notification, which the registry sends again, or once it recorded a push.

use sluice_tests::{Upstream, wait_for};

use super::{Play, dies};

fn push(at: &str) {
    let mut play = Play::of("gateway");
    let account = play.stack.account("ci", "push: ['team/*']\n");
    play.stack.apply(account.trim_start_matches("---\n"));
    if !at.is_empty() {
        play.stack.kill(0);
        let death = play.stack.death(at);
        let settings: Vec<_> = death
            .iter()
            .map(|(key, value)| (*key, value.as_str()))
            .collect();
        let (tokens, _) = play.stack.gateway(&settings);
        play.stack.before_gateway.retarget(&tokens);
    }
    let ci = Upstream::with_account(&play.stack.internal.host, "ci", "cici");
    wait_for("the gateway to know the account", 20, || {
        (ci.try_upload("team/app") == 202).then_some(())
    });
    // The first notification tells one fact, the one of the tag two.
    let image = ci.image("team/app", "amd64", "content");
    ci.put("team/app", "1.0", &image);
    if !at.is_empty() {
        play.stack.until_dead(1, at);
        play.stack.restart_gateway();
    }
    let count = |name| play.events(name).len();
    wait_for("the push to be told", 30, || {
        (count("tag.pushed") == 1 && count("manifest.pushed") == 2).then_some(())
    });
    // Whatever comes after it in the registry's queue shows that this notification was taken.
    let next = ci.image("team/app", "amd64", "next");
    ci.put("team/app", "2.0", &next);
    wait_for("the next push to be told", 30, || {
        (count("tag.pushed") == 2).then_some(())
    });
    assert_eq!(count("manifest.pushed"), 4);
    play.expect_published(&[]);
    let entry = play.tag("team/app", "1.0");
    assert_eq!((entry.digest, entry.generation), (image.digest, 1));
    assert_eq!(entry.arrived_by, "ci");
}

dies!(push:
    a_push_is_told_without_a_death at "",
    a_push_is_told_between_its_two_facts at "gateway.event_published:2",
    a_push_is_told_before_the_answer at "gateway.event_published=tag.pushed",
    a_push_is_told_and_recorded_once_after_its_entry at "tags.observed",
);
