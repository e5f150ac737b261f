//! The poller dies between the moves that it tells and what it records of them, and while it writes its schedules.

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
    play.told(&[("upstream.tag_moved", 2)]);
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
