//! One poll of one mirror, in as many parts as it needs, and the record of it.

mod attachment_tags;
mod failure_backoff;
mod known_tags;
mod tag_moves;
mod tag_poll;
mod tags_to_check;

use chrono::{DateTime, TimeDelta, Utc};
use sluice_bus::{Cause, Outcome};
use sluice_domain::resources::Mirror;
use sluice_events::commands::PollMirror;
use sluice_events::facts::{UpstreamPollFailed, UpstreamPollRecovered};
use sluice_events::wire::state::UpstreamPoll;
use sluice_events::{EventId, time_from_wire, time_to_wire};
use sluice_state::key;
use sluice_telemetry::metrics;

use self::tag_poll::PolledTags;
use crate::error::Error;
use crate::handler::Poller;

/// How long after a part the next one may begin; afterwards a scheduled poll continues instead.
const MAX_PART_DELAY: TimeDelta = TimeDelta::minutes(5);

impl Poller {
    pub(crate) async fn poll(&self, command: &PollMirror, cause: &Cause) -> Result<Outcome, Error> {
        let name = &command.mirror;
        let catalog = self.catalog.current();
        let Some(mirror) = catalog.mirrors.get(name).filter(|mirror| mirror.enabled) else {
            tracing::info!(mirror = %name, "the mirror does not exist or is disabled; nothing to poll");
            return Ok(Outcome::done());
        };
        let (mut poll, _) = self.state.polls.get_or_default(&key::poll(name)).await?;
        // A requested poll is always made.
        if cause.is_scheduled() {
            let now = sluice_domain::now();
            let until = failure_backoff::paused_until(&poll, mirror.every.duration());
            if let Some(until) = until.filter(|until| *until > now) {
                tracing::debug!(mirror = %name, %until, "the upstream keeps failing; skipping this poll");
                return Ok(Outcome::done());
            }
            if is_in_progress(&poll, now) {
                tracing::debug!(mirror = %name, after = poll.resume_after, "the poll before is still in progress");
                return Ok(Outcome::done());
            }
        }
        let polled = self
            .poll_tags(&catalog, mirror, command.urgent, &poll.resume_after)
            .await?;
        let Some(stopped_after) = polled.stopped_after.clone() else {
            return Ok(self.finish_poll(mirror, poll, polled));
        };
        if let Some(reason) = polled.failure {
            poll.reason = reason;
        } else if poll.resume_after.is_empty() {
            poll.reason.clear();
        }
        poll.mirror = mirror.name.to_string();
        poll.polled_at = Some(time_to_wire(sluice_domain::now()));
        poll.resume_after = stopped_after;
        // Before the next message can begin. The moves of this part are published after that; if this process dies
        // first, the entries of the tags hold them as pending, and the next part publishes them.
        self.state.polls.put(&key::poll(name), &poll).await?;
        let id = format!("poll/{name}/{}/{}", cause.occurrence, poll.resume_after);
        Ok(polled
            .outcome
            .command(command.clone(), EventId::random(), id))
    }

    /// Records a poll that has checked all tags, and publishes its failure or recovery.
    fn finish_poll(&self, mirror: &Mirror, mut poll: UpstreamPoll, polled: PolledTags) -> Outcome {
        let mut outcome = polled.outcome;
        let earlier_failure = std::mem::take(&mut poll.reason);
        let is_continued = !poll.resume_after.is_empty() && !earlier_failure.is_empty();
        let failure = polled
            .failure
            .or_else(|| is_continued.then_some(earlier_failure));
        if polled.is_listed {
            poll.resume_after.clear();
        }
        poll.mirror = mirror.name.to_string();
        poll.polled_at = Some(time_to_wire(sluice_domain::now()));
        poll.tags_selected = u64::try_from(polled.selected).unwrap_or(u64::MAX);
        poll.reason = failure.clone().unwrap_or_default();
        match failure {
            Some(reason) => {
                poll.failures += 1;
                tracing::warn!(mirror = %mirror.name, reason, failures = poll.failures, "poll failed");
                if !poll.failure_published {
                    poll.failure_published = true;
                    outcome = outcome.fact(UpstreamPollFailed {
                        mirror: mirror.name.clone(),
                        source: mirror.from.clone(),
                        repository: mirror.to.clone(),
                        reason,
                        failures: poll.failures,
                    });
                }
            }
            None => {
                let failures = std::mem::take(&mut poll.failures);
                poll.succeeded_at = poll.polled_at;
                if std::mem::take(&mut poll.failure_published) {
                    outcome = outcome.fact(UpstreamPollRecovered {
                        mirror: mirror.name.clone(),
                        source: mirror.from.clone(),
                        repository: mirror.to.clone(),
                        failures,
                    });
                }
            }
        }
        report_metrics(&poll);
        let (polls, key) = (self.state.polls.clone(), key::poll(&mirror.name));
        outcome.then(async move { polls.put(&key, &poll).await.map(drop) })
    }
}

/// Reports the last success and the failures of a mirror's polls.
pub(crate) fn report_metrics(poll: &UpstreamPoll) {
    let labels = [poll.mirror.as_str()];
    if let Some(at) = &poll.succeeded_at {
        metrics::POLL_SUCCESS_TIMESTAMP.set(at.seconds as f64, &labels);
    }
    let failures = u32::try_from(poll.failures).unwrap_or(u32::MAX);
    metrics::POLL_FAILURES.set(f64::from(failures), &labels);
}

/// Says whether another message is about to poll the tags that the last part did not reach.
fn is_in_progress(poll: &UpstreamPoll, now: DateTime<Utc>) -> bool {
    let ended = time_from_wire(poll.polled_at.as_ref());
    !poll.resume_after.is_empty() && ended.is_some_and(|ended| now - ended < MAX_PART_DELAY)
}
