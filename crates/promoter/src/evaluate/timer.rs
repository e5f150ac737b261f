//! The timer that evaluates an image again when the time alone changes its decision: when a soak time is over, or a
//! condition on the time changes.

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use sluice_bus::{Bus, Schedule, Timing};
use sluice_events::commands::JudgeImage;
use sluice_events::subject;
use sluice_events::time_from_wire;
use sluice_service::crash;

use super::evaluated_decision::Evaluation;
use crate::error::Error;

/// Schedules the next evaluation of a decision that holds until a time, and removes the timer of one that holds for good.
///
/// There is one per policy and tag: a digest that comes later replaces the timer of the one before, and a timer that
/// fired is gone. So there are never more timers than tags with such decisions.
pub(crate) async fn schedule_evaluation(
    bus: &Bus,
    evaluation: &Evaluation<'_>,
) -> Result<(), Error> {
    let Evaluation {
        policy, subject, ..
    } = evaluation;
    let Some(policy) = policy else {
        return Ok(());
    };
    let has_timers = policy.spec.soak.is_some() || policy.depends_on_time();
    if subject.current.is_none() || !has_timers {
        return Ok(());
    }
    let name = format!(
        "judge.{}.{}.{}",
        subject::encode(policy.spec.name.as_str()),
        subject::encode(subject.repository.as_str()),
        subject::encode(subject.tag.as_str())
    );
    let Some(until) = time_from_wire(evaluation.decision.wait_until.as_ref()) else {
        bus.remove_schedule(&name)
            .await
            .map_err(sluice_state::Error::from)?;
        crash::point("promoter.timer_removed");
        return Ok(());
    };
    let command = JudgeImage {
        repository: subject.repository.clone(),
        tag: subject.tag.clone(),
        digest: subject.digest.clone(),
    };
    let schedule = Schedule {
        name,
        timing: Timing::At(whole_second(until)),
        command: command.into(),
    };
    bus.put_schedule(&schedule)
        .await
        .map_err(sluice_state::Error::from)?;
    crash::point("promoter.timer_scheduled");
    Ok(())
}

/// Rounds up to the whole seconds of schedules: one that fired before the time would find the image still waiting.
fn whole_second(at: DateTime<Utc>) -> DateTime<Utc> {
    let second = TimeDelta::seconds(1);
    at.duration_trunc(second)
        .ok()
        .filter(|floor| *floor < at)
        .and_then(|floor| floor.checked_add_signed(second))
        .unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_never_fires_before_the_time() {
        for (at, expected) in [
            ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
            ("2026-01-01T00:00:00.000000001Z", "2026-01-01T00:00:01Z"),
            ("2026-01-01T23:59:59.9Z", "2026-01-02T00:00:00Z"),
        ] {
            let at: DateTime<Utc> = at.parse().unwrap();
            assert_eq!(whole_second(at), expected.parse::<DateTime<Utc>>().unwrap());
        }
        assert_eq!(
            whole_second(DateTime::<Utc>::MAX_UTC),
            DateTime::<Utc>::MAX_UTC
        );
    }
}
