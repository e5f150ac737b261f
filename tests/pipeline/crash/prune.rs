//! The pruner dies between its deletions, and before it tells them.

use sluice_events::Event;
use sluice_events::commands::PruneRepositories;

use sluice_tests::wait_for;

use super::{Play, dies};

const KEEP_ONE: &str = "kind: Repository\nname: 'hub/*'\nkeep: 1\n";

/// Two tags of a repository go, and are told together.
fn retention(at: &str) {
    let mut play = Play::of("pruner");
    for (tag, minutes) in [("1", 30), ("2", 20), ("3", 10)] {
        play.hold("hub/app", tag, tag, minutes);
    }
    play.stack.apply(KEEP_ONE);
    play.bus.command(PruneRepositories {
        policy: None,
        repository: "hub/app".parse().ok(),
    });
    play.run(at, &[]);
    wait_for("both tags to be told", 60, || {
        (deleted(&play).len() >= 2).then_some(())
    });
    // The search at the start asks for a run of its own, which may take up what was interrupted before this one does.
    let runs = play.events("prune.completed").len();
    assert!(runs == 1 || (runs == 2 && !at.is_empty()), "{runs}");
    play.expect_published(&[("prune.completed", runs)]);
    assert_eq!(deleted(&play), ["1", "2"]);
    let reader = play.stack.reader();
    for (tag, stays) in [("1", false), ("2", false), ("3", true)] {
        assert_eq!(reader.get("hub/app", tag).is_some(), stays, "{tag}");
        let entry = play.tag("hub/app", tag);
        assert_eq!((!entry.digest.is_empty(), !entry.pruned), (stays, stays));
    }
}

/// Returns the tags that were told as deleted, each as often as it was.
fn deleted(play: &Play) -> Vec<String> {
    let mut tags = Vec::new();
    for fact in play.events("prune.completed") {
        let Event::PruneCompleted(told) = fact else {
            panic!("it was counted");
        };
        tags.extend(told.deleted.into_iter().map(|one| one.tag.to_string()));
    }
    tags.sort();
    tags
}

dies!(retention:
    tags_are_pruned_without_a_death at "",
    tags_are_pruned_after_a_claim at "tags.claimed:2",
    tags_are_pruned_after_a_tombstone_was_noted at "tags.tombstone_recorded:2",
    tags_are_pruned_after_a_tombstone_was_put at "registry.tombstone_put:2",
    tags_are_pruned_after_a_deletion at "tags.written:1",
    tags_are_pruned_before_one_is_settled at "tags.checked:1",
    tags_are_pruned_between_two_deletions at "tags.recorded:1",
    tags_are_pruned_after_the_last_deletion at "tags.recorded:2",
    tags_are_pruned_before_it_is_told at "bus.handled",
    tags_are_pruned_after_it_was_told at "bus.fact_published",
    tags_are_pruned_before_the_acknowledgement at "bus.finished",
);

/// One command for everything becomes one for each repository.
fn fan_out(at: &str) {
    let mut play = Play::of("pruner");
    for repository in ["hub/one", "hub/two"] {
        for (tag, minutes) in [("1", 30), ("2", 20)] {
            play.hold(repository, tag, tag, minutes);
        }
    }
    play.stack.apply(KEEP_ONE);
    play.bus.command(PruneRepositories {
        policy: None,
        repository: None,
    });
    play.run(at, &[]);
    play.expect_published(&[("prune.completed", 2)]);
    for repository in ["hub/one", "hub/two"] {
        assert_eq!(play.tag(repository, "1").digest, "");
        assert_ne!(play.tag(repository, "2").digest, "");
    }
}

dies!(fan_out:
    every_repository_is_pruned_without_a_death at "",
    every_repository_is_pruned_after_one_was_asked_for at "bus.command_published:1",
    every_repository_is_pruned_after_all_were_asked_for at "bus.command_published:2",
);
