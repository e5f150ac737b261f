//! What a decision of a restored state is good for: an image that left its target since the backup is scanned again first.
//!
//! It may have been withdrawn for a finding that the restored verdict does not know. So it is not brought back before a
//! scanner has looked at it after the restore.

use chrono::{DateTime, Utc};
use sluice_bus::Cause;
use sluice_domain::{Class, Classify as _, Digest, Repository, Tag, Target, now};
use sluice_events::EventId;
use sluice_events::commands::ScanImage;
use sluice_events::wire::events::Reason;
use sluice_events::wire::state::{Decision, DecisionOutcome};
use sluice_events::{time_from_wire, time_to_wire};
use sluice_state::{Entry, key};

use crate::handler::{Error, Promoter};
use crate::missing_tags::{ASK_AGAIN, MissingTagCheck};

/// The rule that holds an image up.
const RULE: &str = "restore";

impl Promoter {
    /// Holds up what a page of decisions says to be in a target, and what is not there; returns how many could not be told.
    pub(crate) async fn hold_missing(
        &self,
        since: DateTime<Utc>,
        decisions: &[Entry<Decision>],
        cause: &Cause,
    ) -> Result<u64, Error> {
        let (mut look, mut unknown) = (MissingTagCheck::of(self, cause), 0);
        for entry in decisions {
            let decision = &entry.value;
            let (Ok(target), Ok(target_tag)) = (
                Target::from_stored(&decision.target),
                decision.target_tag.parse::<Tag>(),
            ) else {
                continue;
            };
            // One that was not announced may not have been carried out yet, and is carried out now.
            let stood = decision.promoted_at.is_some()
                && decision.announced
                && decision.outcome() == DecisionOutcome::Allow;
            if !stood {
                continue;
            }
            let is_missing = match target.local() {
                Some(target) => match self.registry.head(target, &(&target_tag).into()).await {
                    Ok(head) => head.is_none(),
                    Err(error) if error.class() == Class::Permanent => {
                        tracing::warn!(image.repository = %target, image.tag = %target_tag, %error, "whether it is there since the restore cannot be told");
                        unknown += 1;
                        continue;
                    }
                    Err(source) => {
                        let until = now() + ASK_AGAIN;
                        return Err(Error::Away { until, source });
                    }
                },
                // What cannot be told may be missing.
                None => look.is_missing_or_unknown(&target, &target_tag).await?,
            };
            if is_missing {
                self.hold(entry, since, cause).await?;
            }
        }
        Ok(unknown)
    }

    /// Leaves a decision open until its image was scanned again, if its source still names that and could bring it back.
    async fn hold(
        &self,
        entry: &Entry<Decision>,
        since: DateTime<Utc>,
        cause: &Cause,
    ) -> Result<(), Error> {
        let decision = &entry.value;
        let (Ok(repository), Ok(tag), Ok(digest)) = (
            decision.repository.parse::<Repository>(),
            decision.tag.parse::<Tag>(),
            decision.digest.parse::<Digest>(),
        ) else {
            return Ok(());
        };
        let source = self.state.tags.get(&key::tag(&repository, &tag)).await?;
        if source.is_none_or(|source| source.value.digest != decision.digest) {
            return Ok(());
        }
        let mut next = decision.clone();
        hold(&mut next, since, now());
        let written = self
            .state
            .decisions
            .write(&entry.key, &next, Some(entry.revision));
        match written.await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        tracing::warn!(image.repository = %decision.target, image.tag = %decision.target_tag, image.digest = %digest, "gone since the backup; scanned again before it is promoted");
        let id = format!("scan/restore/{}/{}", entry.key, since.to_rfc3339());
        let command = ScanImage {
            repository,
            tag: Some(tag),
            digest,
        };
        self.bus
            .command_once(&command.into(), cause, EventId::random(), &id)
            .await
            .map_err(sluice_state::Error::from)?;
        Ok(())
    }
}

/// Leaves a decision open until a scan after the restore.
pub(crate) fn hold(decision: &mut Decision, since: DateTime<Utc>, now: DateTime<Utc>) {
    decision.outcome = DecisionOutcome::Undetermined.into();
    decision.reasons = vec![Reason {
        rule: RULE.to_owned(),
        detail: format!(
            "it had left its target when the state was restored at {}; it waits for a scan after that",
            since.to_rfc3339()
        ),
        passed: false,
        undetermined: true,
    }];
    decision.decided_at = Some(time_to_wire(now));
    decision.promoted_at = None;
    decision.flagged = String::new();
    decision.wait_until = None;
    decision.announced = false;
    decision.rescan_after = Some(time_to_wire(since));
}

/// Keeps a decision open that waits for a scan after a restore; `scanned_at` is the latest that is known of one.
pub(crate) fn keep_held(
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
    let holds = before.reasons.iter().any(|reason| reason.rule == RULE);
    match decision.outcome() {
        DecisionOutcome::Allow if holds => *decision = before.clone(),
        DecisionOutcome::Allow => {
            let now = time_from_wire(decision.decided_at.as_ref()).unwrap_or(since);
            hold(decision, since, now);
        }
        _ => decision.rescan_after = before.rescan_after,
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn what_left_its_target_before_a_restore_waits_for_a_scan_after_it() {
        let since = Utc::now();
        let allowed = Decision {
            outcome: DecisionOutcome::Allow.into(),
            decided_at: Some(time_to_wire(since)),
            promoted_at: Some(time_to_wire(since)),
            announced: true,
            ..Default::default()
        };
        let mut held = allowed.clone();
        hold(&mut held, since, since);
        assert!(!held.announced && held.promoted_at.is_none());
        let second = TimeDelta::seconds(1);
        for (scanned_at, outcome) in [
            (None, DecisionOutcome::Undetermined),
            (Some(since - second), DecisionOutcome::Undetermined),
            (Some(since), DecisionOutcome::Undetermined),
            (Some(since + second), DecisionOutcome::Allow),
        ] {
            let mut next = allowed.clone();
            keep_held(&mut next, Some(&held), scanned_at);
            assert_eq!(next.outcome(), outcome, "{scanned_at:?}");
            assert_eq!(next == held, outcome == DecisionOutcome::Undetermined);
        }
        // A refusal in between does not make anybody forget it.
        let mut refused = Decision {
            outcome: DecisionOutcome::Deny.into(),
            ..Default::default()
        };
        keep_held(&mut refused, Some(&held), None);
        assert_eq!(refused.outcome(), DecisionOutcome::Deny);
        let mut next = allowed.clone();
        keep_held(&mut next, Some(&refused), None);
        assert_eq!(next.outcome(), DecisionOutcome::Undetermined);
        // Without a restore nothing waits.
        let mut free = allowed.clone();
        keep_held(&mut free, Some(&allowed), None);
        assert_eq!(free, allowed);
    }
}
