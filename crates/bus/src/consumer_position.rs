//! How a stage stands in its streams, and what a stream lost before the stage had seen it. It asks for nothing itself.

use async_nats::jetstream::consumer::PullConsumer;

use crate::backend::Link;
use crate::connect::Bus;
use crate::error::Error;
use crate::topology::{EVENTS, PULLS, Stage};

/// The position of a stage's consumer in one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerPosition {
    /// The stream.
    pub stream: &'static str,
    /// When the stream was created, in seconds; another one means another stream.
    pub created: i64,
    /// The first message that the stream holds.
    pub first: u64,
    /// The last message that it was given.
    pub last: u64,
    /// How many messages between these two it no longer holds.
    pub deleted: u64,
    /// Messages that the stage has not taken up yet.
    pub waiting: u64,
    /// Messages that it works on, or tries again soon.
    pub in_flight: u64,
    /// Up to here the stage has acknowledged everything.
    pub floor: u64,
}

/// Messages that a stream lost and a stage may not have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogGap {
    /// Messages are gone from its beginning, at most so many.
    Beginning(u64),
    /// Messages are gone from its middle, as after a purge by subject, or because their time to live was over.
    Middle,
    /// It is another stream than before, as after a restore.
    Replaced,
}

impl ConsumerPosition {
    /// Says whether the stage had anything left to do here.
    #[must_use]
    pub const fn has_backlog(&self) -> bool {
        self.waiting > 0 || self.in_flight > 0
    }

    /// Returns what tells this content of the log from one that lost something.
    #[must_use]
    pub fn mark(&self) -> String {
        format!("{}.{}.{}", self.created, self.first, self.deleted)
    }

    /// Returns how many messages the log can lose before the stage loses one of them.
    #[must_use]
    pub const fn headroom(&self) -> u64 {
        let seen = if self.has_backlog() {
            self.floor
        } else {
            self.last
        };
        seen.saturating_add(1).saturating_sub(self.first)
    }

    /// Returns what was lost between an earlier look and this one.
    ///
    /// A purge moves the stage's floor too, so only the earlier floor tells what had been seen. Where the stage had
    /// nothing left to do, it had seen everything up to the last message of that time, and nothing of what came since.
    #[must_use]
    pub const fn lost_since(&self, before: &Self) -> Option<LogGap> {
        if self.created != before.created || self.last < before.last {
            return Some(LogGap::Replaced);
        }
        let seen = if before.has_backlog() {
            before.floor
        } else {
            before.last
        };
        if self.first > before.first && self.first > seen.saturating_add(1) {
            return Some(LogGap::Beginning(self.first - seen - 1));
        }
        let unseen = before.has_backlog() || self.last > before.last;
        if self.deleted > before.deleted && unseen {
            return Some(LogGap::Middle);
        }
        None
    }
}

impl Bus {
    /// Looks at the streams of a stage; a bus that leads to no server has none to look at.
    ///
    /// # Errors
    /// A stream or consumer that was not provisioned, or a server that does not answer.
    pub async fn look(&self, stage: &Stage) -> Result<Vec<ConsumerPosition>, Error> {
        if matches!(self.link, Link::Simulated(_)) {
            return Ok(Vec::new());
        }
        let sources = stage.sources();
        let streams: Vec<&str> = sources.iter().map(|(stream, _)| *stream).collect();
        self.denials
            .fail_on_permission_violation(&streams, self.looks(stage))
            .await
    }

    async fn looks(&self, stage: &Stage) -> Result<Vec<ConsumerPosition>, Error> {
        let mut all = Vec::new();
        // A pull that is lost leads to nothing that could be searched for.
        let sources = stage.sources().into_iter();
        for (stream, _) in sources.filter(|(stream, _)| *stream != PULLS) {
            // The stream first: what the consumer then has left to do is all of what is left up to that last message.
            let info = self
                .server()?
                .get_stream(stream)
                .await
                .map_err(Error::server("look up stream", stream))?
                .cached_info()
                .clone();
            let consumer: PullConsumer = self
                .server()?
                .get_consumer_from_stream(stage.name, stream)
                .await
                .map_err(Error::server(
                    "find consumer",
                    format!("{stream}/{}", stage.name),
                ))?;
            let stage = consumer.cached_info();
            all.push(ConsumerPosition {
                stream,
                created: info.created.unix_timestamp(),
                first: info.state.first_sequence,
                last: info.state.last_sequence,
                deleted: info.state.deleted_count.unwrap_or(0),
                waiting: stage.num_pending,
                in_flight: u64::try_from(stage.num_ack_pending).unwrap_or(0),
                floor: stage.ack_floor.stream_sequence,
            });
        }
        Ok(all)
    }

    /// Looks at the log, whoever consumes it; its marks are those that the looks of stages have.
    ///
    /// # Errors
    /// A log that was not provisioned, or a server that does not answer.
    pub async fn mark_of_log(&self) -> Result<String, Error> {
        let stream = self
            .server()?
            .get_stream(EVENTS)
            .await
            .map_err(Error::server("look up stream", EVENTS))?;
        let info = stream.cached_info();
        Ok(format!(
            "{}.{}.{}",
            info.created.unix_timestamp(),
            info.state.first_sequence,
            info.state.deleted_count.unwrap_or(0)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(first: u64, last: u64, floor: u64, backlog: u64) -> ConsumerPosition {
        ConsumerPosition {
            stream: EVENTS,
            created: 1,
            first,
            last,
            deleted: 0,
            waiting: backlog,
            in_flight: 0,
            floor,
        }
    }

    #[test]
    fn what_a_stage_had_not_seen_is_missed() {
        let busy = look(1, 100, 40, 60);
        let idle = look(1, 100, 40, 0);
        for (before, now, lost) in [
            // A purge moves the floor with it.
            (&busy, look(101, 100, 100, 0), Some(LogGap::Beginning(60))),
            (&busy, look(41, 100, 40, 60), None),
            (&busy, look(42, 100, 41, 59), Some(LogGap::Beginning(1))),
            (&idle, look(101, 100, 100, 0), None),
            // Published and purged between two looks.
            (&idle, look(106, 105, 105, 0), Some(LogGap::Beginning(5))),
            (&idle, look(50, 105, 40, 5), None),
            (&idle, look(1, 90, 90, 0), Some(LogGap::Replaced)),
        ] {
            assert_eq!(now.lost_since(before), lost, "{before:?} {now:?}");
        }
        let other = ConsumerPosition {
            created: 2,
            ..look(1, 100, 40, 0)
        };
        assert_eq!(other.lost_since(&idle), Some(LogGap::Replaced));
    }

    #[test]
    fn a_hole_counts_only_where_something_was_unseen() {
        let holed = |look: ConsumerPosition| ConsumerPosition { deleted: 3, ..look };
        let idle = look(1, 100, 100, 0);
        assert_eq!(holed(idle.clone()).lost_since(&idle), None);
        assert_eq!(
            holed(look(1, 103, 100, 0)).lost_since(&idle),
            Some(LogGap::Middle)
        );
        let busy = look(1, 100, 40, 60);
        assert_eq!(
            holed(look(1, 100, 40, 57)).lost_since(&busy),
            Some(LogGap::Middle)
        );
    }

    #[test]
    fn the_headroom_is_what_may_go_before_something_unseen_does() {
        for (look, headroom) in [
            (look(1, 100, 40, 60), 40),
            (look(41, 100, 40, 60), 0),
            (look(90, 100, 40, 10), 0),
            (look(1, 100, 40, 0), 100),
            (look(101, 100, 100, 0), 0),
        ] {
            assert_eq!(look.headroom(), headroom, "{look:?}");
        }
    }
}
