//! The promoter dies while it forgets what exists no longer, and goes on where it was.

use super::{Play, dies};
use crate::cleanup::{FORGOTTEN, Past};

fn cleanup(at: &str) {
    let mut play = Play::of("promoter");
    let bus = play.stack.bus();
    let past = Past::of(&play.stack, &bus);
    past.ask();
    play.run(at, &[]);
    past.until_clean();
    past.is_known_but_for(&FORGOTTEN);
    play.expect_published(&[]);
}

dies!(cleanup:
    what_is_gone_is_forgotten_without_a_death at "",
    what_is_gone_is_forgotten_after_the_first_of_it at "cleanup.entry_removed:1",
    what_is_gone_is_forgotten_after_its_tag at "cleanup.entry_removed:2",
    what_is_gone_is_forgotten_after_its_poll at "cleanup.entry_removed:4",
    what_is_gone_is_forgotten_after_its_image at "cleanup.entry_removed:5",
    what_is_gone_is_forgotten_after_its_verdict at "cleanup.entry_removed:6",
    what_is_gone_is_forgotten_after_its_report at "cleanup.report_removed",
);
