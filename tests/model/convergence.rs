//! Whatever policies lead where, decisions come to rest: nothing that is decided leads to work that ends where it began.

use chrono::TimeDelta;
use sluice_bus::topology::PROMOTER;

use crate::history::{History, Scenario, follow};
use crate::operator_actions::{TAGS, apply, move_tag, new_database, reconcile, rejudge, tick};
use sluice_tests::seeded_random::SeededRandom;

/// How many histories are drawn.
const HISTORIES: u64 = 200;
/// How many messages may follow from one thing that somebody does, over twice as many as ever did.
const MOST_MESSAGES: u64 = 200;
const MIRRORS: [&str; 2] = ["a", "b"];

/// Draws a policy of this number.
fn draw(random: &mut SeededRandom, number: usize) -> String {
    let (from, to) = random.pick(&[
        ("hub/*", "official/{name}"),
        ("hub/*", "official/a"),
        ("hub/*", "approved/{name}"),
        ("hub/a", "official/a"),
        ("hub/b", "official/a"),
        ("hub/b", "approved/a"),
        ("official/*", "approved/{name}"),
    ]);
    let tag = random.pick(&["%n", "%n", "v-%n", "stable"]);
    let also = random.pick(&["", "", " && tag != \"1\"", " && tag == \"1\""]);
    let recall = random.pick(&["flag", "withdraw", "withdraw", "ignore"]);
    let enabled = random.percent(85);
    format!(
        "kind: PromotionPolicy\nname: p{number}\nfrom: {from}\nto: {to}\ntag: '{tag}'\nwhen: 'scan.critical == 0{also}'\nrecall: {recall}\nenabled: {enabled}\nshares_target: true\n---\n"
    )
}

/// Lets everything come to rest, in so many messages.
async fn come_to_rest(history: &mut History, after: &str) -> u64 {
    let before = history.shared.lock().log.stored();
    history.drain().await;
    let mut world = history.shared.lock();
    let stored = world.log.stored() - before;
    if stored > MOST_MESSAGES {
        world.wrong(format!("{stored} messages followed after {after}"));
    }
    stored
}

/// Does one thing, and says which.
fn act(history: &History, policies: &mut [String]) -> &'static str {
    let roll = history.shared.lock().random.below(4);
    match roll {
        0 => {
            new_database(history);
            "a new database"
        }
        1 => {
            rejudge(history);
            "evaluations that somebody asked for"
        }
        2 => {
            let mut world = history.shared.lock();
            let number = world.random.below(policies.len());
            let text = draw(&mut world.random, number);
            world.policies_changed = true;
            drop(world);
            if text != policies[number] {
                apply(history, &text);
                policies[number] = text;
            }
            reconcile(history, &PROMOTER);
            "a policy was changed"
        }
        _ => {
            let mut world = history.shared.lock();
            let (mirror, tag) = (world.random.pick(&MIRRORS), world.random.pick(&TAGS));
            move_tag(&mut world, mirror, tag, 0);
            tick(&mut world, mirror);
            "a tag moved"
        }
    }
}

#[test]
fn drawn_policies_tags_and_targets_come_to_rest_in_a_bounded_number_of_messages() {
    for seed in 0..HISTORIES {
        follow(seed, Scenario::Drawn, async |history| {
            let mut policies: Vec<String> = {
                let mut world = history.shared.lock();
                world.policies_changed = true;
                let random = &mut world.random;
                let count = 2 + random.below(3);
                (0..count).map(|number| draw(random, number)).collect()
            };
            apply(history, &policies.concat());
            come_to_rest(history, "the first polls").await;
            for _ in 0..5 {
                let what = act(history, &mut policies);
                come_to_rest(history, what).await;
            }
            let mut told = 0;
            for _ in 0..3 {
                history.pass(TimeDelta::hours(1)).await;
                reconcile(history, &PROMOTER);
                told = history.shared.lock().log.facts.len();
                come_to_rest(history, "an hourly search").await;
            }
            let world = history.shared.lock();
            let again = &world.log.facts[told..];
            assert!(again.is_empty(), "seed {seed} tells {again:?} again");
        });
    }
}

/// Nobody searches meanwhile; only the timer of the decision can bring it.
#[test]
fn an_image_is_promoted_when_a_condition_on_the_time_comes_true_and_refused_when_it_ends() {
    for (when, first, then) in [
        ("now - updated_at > duration(\"90m\")", false, true),
        ("scan.age < duration(\"90m\")", true, false),
        (
            "scan.age > duration(\"5h\") && now > updated_at",
            false,
            false,
        ),
    ] {
        follow(7, Scenario::Drawn, async |history| {
            let text = format!(
                "kind: PromotionPolicy\nname: timed\nfrom: hub/a\nto: official/a\nwhen: 'scan.critical == 0 && {when}'\nrecall: withdraw\n"
            );
            history.shared.lock().policies_changed = true;
            apply(history, &text);
            history.drain_until(TimeDelta::minutes(80)).await;
            assert_eq!(is_promoted(history), first, "{when}");
            history.drain_until(TimeDelta::minutes(80)).await;
            assert_eq!(is_promoted(history), then, "{when}");
        });
    }
}

fn is_promoted(history: &History) -> bool {
    let world = history.shared.lock();
    let target = world.hub.repositories.get("official/a");
    target.is_some_and(|target| !target.tags.is_empty())
}
