//! Images that were missing in their target after a restore are promoted again only after a new scan.
//!
//! Such an image may have been withdrawn for a finding that the restored verdict does not have.

use chrono::{DateTime, Utc};
use sluice_events::wire::events::Reason;
use sluice_events::wire::state::{Decision, DecisionOutcome};
use sluice_events::{time_from_wire, time_to_wire};

/// The rule that an image waits for a scan after a restore.
const RULE: &str = "restore";

/// Leaves a decision undetermined until a scan after the restore.
pub(crate) fn require_rescan_after_restore(
    decision: &mut Decision,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) {
    decision.outcome = DecisionOutcome::Undetermined.into();
    decision.reasons = vec![Reason {
        rule: RULE.to_owned(),
        detail: format!(
            "the image was missing in its target when the state was restored at {}; it waits for a scan after that",
            since.to_rfc3339()
        ),
        passed: false,
        undetermined: true,
    }];
    decision.decided_at = Some(time_to_wire(now));
    decision.promoted_at = None;
    decision.flagged = String::new();
    decision.wait_until = None;
    decision.published = false;
    decision.rescan_after = Some(time_to_wire(since));
}

/// Keeps a decision undetermined that waits for a scan after a restore; `scanned_at` is the time of the latest scan.
pub(super) fn keep_waiting_for_rescan(
    decision: &mut Decision,
    before: Option<&Decision>,
    scanned_at: Option<DateTime<Utc>>,
) {
    let Some(before) = before else { return };
    let Some(since) = time_from_wire(before.rescan_after.as_ref()) else {
        return;
    };
    if scanned_at.is_some_and(|scanned_at| scanned_at > since) {
        return;
    }
    let is_waiting = before.reasons.iter().any(|reason| reason.rule == RULE);
    match decision.outcome() {
        DecisionOutcome::Allow if is_waiting => *decision = before.clone(),
        DecisionOutcome::Allow => {
            let now = time_from_wire(decision.decided_at.as_ref()).unwrap_or(since);
            require_rescan_after_restore(decision, since, now);
        }
        _ => decision.rescan_after = before.rescan_after,
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn an_image_that_was_missing_at_a_restore_waits_for_a_scan_after_it() {
        let since = Utc::now();
        let allowed = Decision {
            outcome: DecisionOutcome::Allow.into(),
            decided_at: Some(time_to_wire(since)),
            promoted_at: Some(time_to_wire(since)),
            published: true,
            ..Default::default()
        };
        let mut waiting = allowed.clone();
        require_rescan_after_restore(&mut waiting, since, since);
        assert!(!waiting.published && waiting.promoted_at.is_none());
        let second = TimeDelta::seconds(1);
        for (scanned_at, outcome) in [
            (None, DecisionOutcome::Undetermined),
            (Some(since - second), DecisionOutcome::Undetermined),
            (Some(since), DecisionOutcome::Undetermined),
            (Some(since + second), DecisionOutcome::Allow),
        ] {
            let mut next = allowed.clone();
            keep_waiting_for_rescan(&mut next, Some(&waiting), scanned_at);
            assert_eq!(next.outcome(), outcome, "{scanned_at:?}");
            assert_eq!(next == waiting, outcome == DecisionOutcome::Undetermined);
        }
        // A refusal in between does not end the wait.
        let mut refused = Decision {
            outcome: DecisionOutcome::Deny.into(),
            ..Default::default()
        };
        keep_waiting_for_rescan(&mut refused, Some(&waiting), None);
        assert_eq!(refused.outcome(), DecisionOutcome::Deny);
        let mut next = allowed.clone();
        keep_waiting_for_rescan(&mut next, Some(&refused), None);
        assert_eq!(next.outcome(), DecisionOutcome::Undetermined);
        // Without a restore no decision waits.
        let mut free = allowed.clone();
        keep_waiting_for_rescan(&mut free, Some(&allowed), None);
        assert_eq!(free, allowed);
    }
}
