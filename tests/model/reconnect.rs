//! What a watch delivers again after nats-server was away changes nothing.

use sluice_events::commands::PruneRepositories;

use crate::history::{History, Scenario, follow};
use crate::images::POOL;
use crate::operator_actions::{apply, ask, tick};

fn keep(history: &History, count: usize) {
    let text = format!("kind: Repository\nname: hub/*\nkeep: {count}\n");
    apply(history, &text);
}

fn tags(history: &History) -> Vec<String> {
    let world = history.shared.lock();
    world.hub.repositories["hub/a"]
        .tags
        .keys()
        .cloned()
        .collect()
}

#[test]
fn a_limit_that_was_raised_is_not_back_after_a_reconnect_and_prunes_nothing() {
    for seed in 0..40 {
        follow(seed, Scenario::PrunePromote, async |history| {
            history.drain().await;
            keep(history, 10);
            keep(history, 100);
            history.drain().await;
            {
                let mut world = history.shared.lock();
                for number in 10..30 {
                    world.upstream.push("a", &number.to_string(), &POOL[0]);
                }
                tick(&mut world, "a");
            }
            history.drain().await;
            let before = tags(history);
            assert!(before.len() >= 20, "{before:?}");
            history.shared.lock().reconnect();
            ask(
                history,
                PruneRepositories {
                    policy: None,
                    repository: Some("hub/a".parse().unwrap()),
                },
            );
            history.drain().await;
            assert_eq!(tags(history), before, "seed {seed}");
        });
    }
}
