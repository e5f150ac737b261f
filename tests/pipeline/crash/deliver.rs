//! The webhook dispatcher dies between the deliveries that it asks for, the POST, the fact and the records.

use sluice_tests::bus::promoted;
use sluice_tests::endpoint::{Endpoint, webhook};

use super::{Play, dies};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const OTHER: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";

/// One event reaches two endpoints.
fn delivery(at: &str) {
    let mut play = Play::of("webhook-dispatcher");
    let folder = play.stack.folder().to_owned();
    let endpoints = ["one", "two"].map(|name| Endpoint::own(&folder, name, SECRET, &[]));
    let resources: String = ["one", "two"]
        .iter()
        .zip(&endpoints)
        .map(|(name, endpoint)| {
            webhook(
                &folder,
                name,
                &endpoint.url,
                SECRET,
                "events: ['image.*']\n",
            )
        })
        .collect();
    play.stack.apply(&resources);
    let id = play.bus.publish(promoted("app", "1.0"), "once").id;
    play.run(at, &[]);
    play.expect_published(&[("image.promoted", 1), ("webhook.delivered", 2)]);
    for endpoint in &endpoints {
        let taken = endpoint.taken();
        assert_eq!(taken.len(), 1);
        // A POST whose answer died with the process is sent again, with the same id. What was asked for is carried out
        // beside what asked for it, so that may be so at every point.
        let times = taken[&id.to_string()];
        assert!(times == 1 || (times == 2 && !at.is_empty()), "{times}");
    }
    let deliveries = play.bus.run(play.bus.state.deliveries.list(">")).unwrap();
    assert_eq!(deliveries.len(), 2);
    assert!(deliveries.iter().all(|delivery| delivery.value.delivered));
}

dies!(delivery:
    an_event_is_delivered_without_a_death at "",
    an_event_is_delivered_between_the_deliveries_asked_for at "bus.command_published:1",
    an_event_is_delivered_after_all_were_asked_for at "bus.command_published:2",
    an_event_is_delivered_between_two_plans at "bus.recorded:1",
    an_event_is_delivered_after_the_post at "webhook-dispatcher.posted",
    an_event_is_delivered_after_it_was_told at "bus.fact_published=webhook.delivered",
    an_event_is_delivered_between_its_two_records at "webhook-dispatcher.attempt_recorded",
    an_event_is_delivered_before_the_acknowledgement at "bus.finished:2",
);

/// An endpoint refuses an event for good.
fn refusal(at: &str) {
    let mut play = Play::of("webhook-dispatcher");
    play.stack.may_leave_messages();
    let folder = play.stack.folder().to_owned();
    let endpoint = Endpoint::own(&folder, "hook", OTHER, &[]);
    let hook = webhook(
        &folder,
        "hook",
        &endpoint.url,
        SECRET,
        "events: ['image.*']\n",
    );
    play.stack.apply(&hook);
    play.bus.publish(promoted("app", "1.0"), "once");
    play.run(at, &[("SLUICE__WEBHOOKS__ATTEMPTS", "1")]);
    play.buried(&[("image.promoted", 1), ("webhook.failed", 1)]);
    let deliveries = play.bus.run(play.bus.state.deliveries.list(">")).unwrap();
    assert!(deliveries[0].value.given_up && !deliveries[0].value.delivered);
}

dies!(refusal:
    a_refusal_is_told_without_a_death at "",
    a_refusal_is_told_after_it_was_told at "webhook-dispatcher.failure_published",
    a_refusal_is_told_after_it_was_noted at "webhook-dispatcher.failure_recorded",
    a_refusal_is_told_after_the_dead_letter at "bus.dead_lettered",
);
