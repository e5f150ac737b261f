//! The poller dies between the moves that it tells and what it records of them, and while it writes its schedules.

use sluice_events::Event;
use sluice_state::key;

use super::{Play, dies};

fn poll(at: &str) {
    let mut play = Play::of("poller");
    let publisher = play.stack.publisher();
    let image = publisher.image("library/app", "amd64", "content");
    for tag in ["1.0", "1.1"] {
        publisher.put("library/app", tag, &image);
    }
    let mirror = play
        .stack
        .mirror("app", "library/app", "hub/app", "every: 1h\n");
    let resources = format!("{}{mirror}", play.stack.upstream_resource());
    play.stack.apply(&resources);
    play.run(at, &[]);
    play.expect_published(&[("upstream.tag_moved", 2)]);
    let mirror = "app".parse().unwrap();
    for tag in ["1.0", "1.1"] {
        let key = key::upstream(&mirror, &tag.parse().unwrap());
        let entry = play.bus.run(play.bus.state.upstream.get(&key)).unwrap();
        let entry = entry.unwrap().value;
        assert_eq!((entry.digest, entry.move_number), (image.digest.clone(), 1));
    }
    let poll = play.bus.run(play.bus.state.polls.get(&key::poll(&mirror)));
    assert_eq!(poll.unwrap().unwrap().value.tags_selected, 2);
    let schedules = play.bus.run(play.bus.bus.schedules("poll")).unwrap();
    assert_eq!(schedules, ["poll.app"]);
}

/// The poller dies after it has told that the tag is at the first image; then the tag moves.
fn moved_between(at: &str) {
    let mut play = Play::of("poller");
    let publisher = play.stack.publisher();
    let images = ["a", "b"].map(|content| publisher.image("library/app", "amd64", content));
    publisher.put("library/app", "1.0", &images[0]);
    let mirror = play
        .stack
        .mirror("app", "library/app", "hub/app", "every: 1h\n");
    let resources = format!("{}{mirror}", play.stack.upstream_resource());
    play.stack.apply(&resources);
    if at.is_empty() {
        play.run("", &[]);
        play.expect_published(&[("upstream.tag_moved", 1)]);
    } else {
        let dying = play.stack.begin_dying("poller", at, &[]);
        play.stack.until_dead(dying, at);
    }
    publisher.put("library/app", "1.0", &images[1]);
    play.run("", &[]);
    play.stack.sluice(&["poll", "app"]);
    play.expect_published(&[("upstream.tag_moved", 2)]);
    let told = play.events("upstream.tag_moved").into_iter();
    let moves: Vec<_> = told
        .map(|event| match event {
            Event::UpstreamTagMoved(fact) => (fact.digest.to_string(), fact.move_number),
            other => panic!("{other:?}"),
        })
        .collect();
    let [a, b] = images.map(|image| image.digest);
    assert_eq!(moves, [(a, 1), (b, 2)], "one move, one number");
}

dies!(moved_between:
    a_tag_that_moves_after_a_poll_has_two_moves at "",
    a_tag_that_moves_after_a_move_got_its_number_has_two_moves at "poller.move_numbered",
    a_tag_that_moves_after_a_move_was_told_has_two_moves at "bus.fact_published:1",
);

dies!(poll:
    moves_are_told_without_a_death at "",
    moves_are_told_after_the_first_poll_was_asked_for at "schedules.commanded",
    moves_are_told_after_the_schedule_was_put at "schedules.put",
    moves_are_told_after_the_upstream_was_asked at "bus.handled",
    moves_are_told_between_two_facts at "bus.fact_published:1",
    moves_are_told_between_the_facts_and_the_records at "bus.fact_published:2",
    moves_are_told_between_two_records at "bus.recorded:1",
    moves_are_told_before_the_record_of_the_poll at "bus.recorded:2",
    moves_are_told_after_the_records at "bus.recorded:3",
    moves_are_told_before_the_acknowledgement at "bus.finished",
);
