//! All streams of the topology, in the order of a backup.

use super::stages::{
    GATEWAY, MIRROR_WORKER, POLLER, PROMOTER, PRUNER, SCANNER_ADAPTER, WEBHOOK_DISPATCHER,
};
use super::streams::{AUDIT, DEAD_LETTERS, EVENTS, PULLS, WORK};

/// The streams in the order of a backup; consumers are paused from [`FIRST_PAUSED`] to [`LAST_PAUSED`].
///
/// State that suppresses an event is saved before `EVENTS`, so that the log is never older than the state. A state that
/// says that a move was published, restored with a log that does not hold it, would lose the move for ever; the other
/// way round the move is published again with the same id. In the same way an effect is saved before its cause: tags
/// before the decisions that wrote them, decisions before verdicts, verdicts before the reports that they name. `AUDIT`
/// follows the log, so it comes before it too.
pub const BACKUP_ORDER: [&str; 28] = [
    AUDIT,
    FIRST_PAUSED,
    "KV_reconciliations",
    "KV_endpoints",
    "KV_deliveries",
    "KV_pulls",
    "KV_tags",
    "KV_target_images",
    "KV_decisions",
    "KV_verdicts",
    "KV_images",
    "KV_upstream",
    "KV_budgets",
    "KV_leases",
    "KV_tombstones",
    "KV_resources",
    WORK,
    POLLER.schedules,
    MIRROR_WORKER.schedules,
    SCANNER_ADAPTER.schedules,
    PROMOTER.schedules,
    PRUNER.schedules,
    WEBHOOK_DISPATCHER.schedules,
    GATEWAY.schedules,
    PULLS,
    EVENTS,
    LAST_PAUSED,
    "OBJ_reports",
];
/// The first stream that is saved while the consumers are paused; also the first that is restored.
pub const FIRST_PAUSED: &str = "KV_control";
/// The last stream that is saved while the consumers are paused. A dead letter is written before its message is
/// acknowledged, so dead letters come last.
pub const LAST_PAUSED: &str = DEAD_LETTERS;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::topology::{BUCKETS, REPORTS, STAGES};

    #[test]
    fn a_backup_takes_every_stream_once() {
        let mut all = BTreeSet::from([EVENTS, PULLS, WORK, DEAD_LETTERS, AUDIT].map(str::to_owned));
        all.extend(STAGES.map(|stage| stage.schedules.to_owned()));
        all.extend(BUCKETS.iter().map(|bucket| format!("KV_{}", bucket.name)));
        all.insert(format!("OBJ_{REPORTS}"));
        let taken: BTreeSet<String> = BACKUP_ORDER.map(str::to_owned).into();
        assert_eq!((taken, BACKUP_ORDER.len()), (all.clone(), all.len()));
    }

    #[test]
    fn the_log_is_never_older_than_the_state_nor_than_the_work() {
        let place = |name: &str| BACKUP_ORDER.iter().position(|taken| *taken == name);
        for bucket in BUCKETS {
            assert!(
                place(&format!("KV_{}", bucket.name)) < place(EVENTS),
                "{}",
                bucket.name
            );
        }
        for earlier in [AUDIT, WORK]
            .into_iter()
            .chain(STAGES.map(|stage| stage.schedules))
        {
            assert!(place(earlier) < place(EVENTS), "{earlier}");
        }
        assert!(place("KV_tags") < place("KV_decisions"));
        assert!(place("KV_verdicts") < place("OBJ_reports"));
    }
}
