//! Whatever is killed, cut or silenced, images end where they end undisturbed, and everything is told once.

mod end;
mod moves;
pub(crate) mod pipeline;

use std::time::Duration;

use sluice_tests::proxy::{Cut, Garbage, Silence};
use sluice_tests::{Faults, pass};

use self::pipeline::Pipeline;

/// For how long the registry does not answer.
const REGISTRY_AWAY: Duration = Duration::from_secs(20);

/// For how long a link is out of order.
const LINK_BROKEN: Duration = Duration::from_secs(6);

/// Eight repositories of five tags: of each, three that are promoted, one with findings, one that no scanner knows.
fn forty_tags(pipeline: &mut Pipeline) {
    for number in 0..8 {
        pipeline.publish(number, 5);
    }
    pipeline.apply();
}

#[test]
fn forty_tags_end_the_same_whatever_is_killed_stopped_or_cut() {
    let expected = {
        let mut calm = Pipeline::start();
        forty_tags(&mut calm);
        calm.until_judged(40);
        calm.ask_to_prune();
        calm.until_pruned();
        calm.end()
    };
    assert_eq!(expected.promoted(), 24);

    let mut pipeline = Pipeline::start();
    pipeline.before_upstream.set(Faults {
        cut: Some(Cut {
            every: 3,
            after: 600,
        }),
        ..Faults::default()
    });
    forty_tags(&mut pipeline);
    pipeline.until("upstream.tag_moved", 4);
    pipeline.kill("poller");
    pipeline.until("tag.mirrored", 3);
    pipeline.kill("mirror-worker");
    pipeline.until("scan.succeeded", 1);
    pipeline.kill("scanner-adapter");
    pipeline.kill("gateway");
    pipeline.until("image.promoted", 1);
    pipeline.kill("promoter");
    pipeline.kill("webhook-dispatcher");
    pipeline.stack.nats.kill();
    pipeline.stack.nats.restart();
    pipeline.until("image.promoted", 4);
    pipeline.stack.internal.freeze(true);
    pass(REGISTRY_AWAY);
    pipeline.stack.internal.freeze(false);
    for kind in ["mirror-worker", "scanner-adapter", "promoter", "pruner"] {
        pipeline.kill(kind);
    }
    pipeline.until_judged(40);
    pipeline.ask_to_prune();
    pipeline.until("prune.completed", 1);
    pipeline.kill("pruner");
    pipeline.until_pruned();
    assert!(pipeline.before_upstream.accepted() > 9);
    let end = pipeline.end();
    assert_eq!(end, expected);
}

/// What a link may do, and whether everything that is open through it is cut when that ends: what was swallowed is lost.
fn faults() -> Vec<(Faults, bool)> {
    let fault = Faults::default();
    let silence = |silence| Faults {
        silence: Some(silence),
        ..fault
    };
    vec![
        (
            Faults {
                latency: Duration::from_millis(60),
                ..fault
            },
            false,
        ),
        (
            Faults {
                bytes_per_second: Some(40_000),
                ..fault
            },
            false,
        ),
        (
            Faults {
                cut: Some(Cut {
                    every: 3,
                    after: 400,
                }),
                ..fault
            },
            true,
        ),
        (silence(Silence::Stall), false),
        (silence(Silence::Swallow), true),
        (
            Faults {
                refuse: true,
                ..fault
            },
            true,
        ),
    ]
}

#[test]
fn every_fault_of_a_link_to_bus_or_registry_is_survived() {
    let mut pipeline = Pipeline::start();
    for (number, (fault, lossy)) in faults().into_iter().enumerate() {
        pipeline.publish(number, 2);
        pipeline.apply();
        // In the middle of the work on it.
        pipeline.until("upstream.tag_moved", 2 * number + 1);
        for proxy in [&pipeline.before_bus, &pipeline.before_registry] {
            proxy.set(fault);
            if lossy {
                proxy.cut();
            }
        }
        pass(LINK_BROKEN);
        for proxy in [&pipeline.before_bus, &pipeline.before_registry] {
            proxy.heal();
            if lossy {
                proxy.cut();
            }
        }
        pipeline.until("image.promoted", 2 * number);
    }
    // Without TLS, garbage would be taken for what was sent; so it is only let into the greeting of new connections.
    pipeline.before_bus.set(Faults {
        garbage: Some(Garbage::Insert(20)),
        ..Faults::default()
    });
    pipeline.publish(faults().len(), 2);
    pipeline.apply();
    pipeline.before_bus.cut();
    pass(LINK_BROKEN);
    pipeline.before_bus.heal();
    pipeline.until_judged(2 * faults().len() + 2);
    assert_eq!(pipeline.end().promoted(), 2 * faults().len() + 2);
}
