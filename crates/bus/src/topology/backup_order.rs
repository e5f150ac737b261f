//! The order in which a backup saves all streams.

use std::iter;

use sluice_domain::stages::STAGES;

use super::buckets::BUCKETS;
use super::streams::{AUDIT, DEAD_LETTERS, EVENTS, PULLS, REPORTS_STREAM, WORK};

/// The number of streams.
pub(crate) const STREAM_COUNT: usize = BUCKETS.len() + STAGES.len() + 6;

/// Returns the streams in the order of a backup; consumers are paused from [`FIRST_PAUSED`] to [`LAST_PAUSED`].
///
/// State that suppresses an event is saved before `EVENTS`, so that the log is never older than the state. A state that
/// says that a move was published, restored with a log that does not hold it, would lose the move for ever; the other
/// way round the move is published again with the same id. `AUDIT` follows the log, so it comes before it too.
pub fn backup_order() -> impl Iterator<Item = &'static str> {
    let buckets = BUCKETS.into_iter().map(|bucket| bucket.stream);
    let schedules = STAGES.into_iter().map(|stage| stage.schedules);
    iter::once(AUDIT)
        .chain(buckets)
        .chain([WORK])
        .chain(schedules)
        .chain([PULLS, EVENTS, LAST_PAUSED, REPORTS_STREAM])
}
/// The first stream that is saved while the consumers are paused; also the first that is restored.
pub const FIRST_PAUSED: &str = "KV_control";
/// The last stream that is saved while the consumers are paused. A dead letter is written before its message is
/// acknowledged, so dead letters come last.
pub const LAST_PAUSED: &str = DEAD_LETTERS;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_backup_takes_every_stream_once() {
        let taken: BTreeSet<&str> = backup_order().collect();
        assert_eq!(
            (taken.len(), backup_order().count()),
            (STREAM_COUNT, STREAM_COUNT)
        );
        assert_eq!(backup_order().nth(1), Some(FIRST_PAUSED));
    }

    #[test]
    fn the_log_is_never_older_than_the_state_nor_than_the_work() {
        let place = |name: &str| backup_order().position(|taken| taken == name);
        for bucket in BUCKETS {
            assert!(place(bucket.stream) < place(EVENTS), "{}", bucket.name);
        }
        for earlier in [AUDIT, WORK]
            .into_iter()
            .chain(STAGES.map(|stage| stage.schedules))
        {
            assert!(place(earlier) < place(EVENTS), "{earlier}");
        }
        assert!(place("KV_tags") < place("KV_decisions"));
        assert!(place("KV_verdicts") < place(REPORTS_STREAM));
    }
}
