//! The positions of a stage's consumers, and the messages that a stream lost before the stage had processed them.

use async_nats::jetstream::stream::Info;

use crate::connection::Bus;
use crate::error::Error;
use crate::topology::{EVENTS, PULLS, Stage, sources_of};

/// The position of a stage's consumer in one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerPosition {
    /// The stream.
    pub stream: &'static str,
    /// When the stream was created, in seconds; after a restore it is another time.
    pub created: i64,
    /// The sequence of the first message that the stream holds.
    pub first: u64,
    /// The sequence of the last message.
    pub last: u64,
    /// How many messages between these two the stream no longer holds.
    pub deleted: u64,
    /// Messages that were not delivered to the stage yet.
    pub waiting: u64,
    /// Messages that were delivered and are not acknowledged.
    pub in_flight: u64,
    /// The sequence up to which the stage has acknowledged every message.
    pub floor: u64,
}

/// Messages that a stream lost and a stage may not have processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogGap {
    /// The stream lost messages at its beginning, at most so many.
    Beginning(u64),
    /// The stream lost messages in its middle, as by a purge of a subject or the expiry of messages.
    Middle,
    /// The stream was replaced by another one, as by a restore.
    Replaced,
}

impl ConsumerPosition {
    /// Says whether the stage has messages to process.
    #[must_use]
    pub const fn has_backlog(&self) -> bool {
        self.waiting > 0 || self.in_flight > 0
    }

    /// Returns a text that changes whenever the stream loses messages.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(self.created, self.first, self.deleted)
    }

    /// Returns how many messages the stream can lose before the stage loses one of them.
    #[must_use]
    pub const fn headroom(&self) -> u64 {
        self.processed()
            .saturating_add(1)
            .saturating_sub(self.first)
    }

    /// Returns the sequence up to which the stage has processed every message.
    const fn processed(&self) -> u64 {
        if self.has_backlog() {
            self.floor
        } else {
            self.last
        }
    }

    /// Returns what the stream lost since an earlier position.
    ///
    /// A purge moves the floor too, so only the earlier floor says what had been processed. A stage without a backlog had
    /// processed everything up to the last message of that time, and nothing that came since.
    #[must_use]
    pub const fn lost_since(&self, before: &Self) -> Option<LogGap> {
        if self.created != before.created || self.last < before.last {
            return Some(LogGap::Replaced);
        }
        let processed = before.processed();
        if self.first > before.first && self.first > processed.saturating_add(1) {
            return Some(LogGap::Beginning(self.first - processed - 1));
        }
        let has_unprocessed = before.has_backlog() || self.last > before.last;
        if self.deleted > before.deleted && has_unprocessed {
            return Some(LogGap::Middle);
        }
        None
    }
}

fn fingerprint(created: i64, first: u64, deleted: u64) -> String {
    format!("{created}.{first}.{deleted}")
}

impl Bus {
    /// Returns the positions of a stage's consumers; none in a simulation.
    ///
    /// # Errors
    /// A stream or consumer that is not provisioned.
    pub async fn consumer_positions(&self, stage: &Stage) -> Result<Vec<ConsumerPosition>, Error> {
        if self.is_simulated() {
            return Ok(Vec::new());
        }
        let sources = sources_of(stage);
        let streams: Vec<&str> = sources.iter().map(|(stream, _)| *stream).collect();
        let positions = async {
            let mut positions = Vec::new();
            for (stream, _) in sources {
                // No work is missing where a pull was lost.
                if stream != PULLS {
                    positions.push(self.consumer_position(stage, stream).await?);
                }
            }
            Ok(positions)
        };
        self.violations.fail_on(&streams, positions).await
    }

    async fn consumer_position(
        &self,
        stage: &Stage,
        stream: &'static str,
    ) -> Result<ConsumerPosition, Error> {
        // The stream first: then the backlog of the consumer includes every message up to the last one.
        let info = self.current_info(stream).await?;
        let consumer = self.durable_consumer(stage.name, stream).await?;
        let consumer = consumer.cached_info();
        Ok(ConsumerPosition {
            stream,
            created: info.created.unix_timestamp(),
            first: info.state.first_sequence,
            last: info.state.last_sequence,
            deleted: info.state.deleted_count.unwrap_or(0),
            waiting: consumer.num_pending,
            in_flight: u64::try_from(consumer.num_ack_pending).unwrap_or(0),
            floor: consumer.ack_floor.stream_sequence,
        })
    }

    /// Returns the fingerprint of `EVENTS`, equal to [`ConsumerPosition::fingerprint`] of any of its consumers.
    pub async fn log_fingerprint(&self) -> Result<String, Error> {
        let info = self.current_info(EVENTS).await?;
        Ok(fingerprint(
            info.created.unix_timestamp(),
            info.state.first_sequence,
            info.state.deleted_count.unwrap_or(0),
        ))
    }

    async fn current_info(&self, stream: &str) -> Result<Info, Error> {
        let handle = self.server()?.get_stream(stream).await;
        let handle = handle.map_err(Error::server("look up stream", stream))?;
        Ok(handle.cached_info().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(first: u64, last: u64, floor: u64, backlog: u64) -> ConsumerPosition {
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
    fn a_gap_counts_what_the_stage_had_not_processed() {
        let busy = position(1, 100, 40, 60);
        let idle = position(1, 100, 40, 0);
        for (before, now, lost) in [
            // A purge moves the floor too.
            (
                &busy,
                position(101, 100, 100, 0),
                Some(LogGap::Beginning(60)),
            ),
            (&busy, position(41, 100, 40, 60), None),
            (&busy, position(42, 100, 41, 59), Some(LogGap::Beginning(1))),
            (&idle, position(101, 100, 100, 0), None),
            // Published and purged between two readings.
            (
                &idle,
                position(106, 105, 105, 0),
                Some(LogGap::Beginning(5)),
            ),
            (&idle, position(50, 105, 40, 5), None),
            (&idle, position(1, 90, 90, 0), Some(LogGap::Replaced)),
        ] {
            assert_eq!(now.lost_since(before), lost, "{before:?} {now:?}");
        }
        let other = ConsumerPosition {
            created: 2,
            ..position(1, 100, 40, 0)
        };
        assert_eq!(other.lost_since(&idle), Some(LogGap::Replaced));
    }

    #[test]
    fn a_gap_in_the_middle_counts_only_where_messages_were_unprocessed() {
        let holed = |position: ConsumerPosition| ConsumerPosition {
            deleted: 3,
            ..position
        };
        let idle = position(1, 100, 100, 0);
        assert_eq!(holed(idle.clone()).lost_since(&idle), None);
        assert_eq!(
            holed(position(1, 103, 100, 0)).lost_since(&idle),
            Some(LogGap::Middle)
        );
        let busy = position(1, 100, 40, 60);
        assert_eq!(
            holed(position(1, 100, 40, 57)).lost_since(&busy),
            Some(LogGap::Middle)
        );
    }

    #[test]
    fn the_headroom_counts_messages_before_the_first_unprocessed_one() {
        for (position, headroom) in [
            (position(1, 100, 40, 60), 40),
            (position(41, 100, 40, 60), 0),
            (position(90, 100, 40, 10), 0),
            (position(1, 100, 40, 0), 100),
            (position(101, 100, 100, 0), 0),
        ] {
            assert_eq!(position.headroom(), headroom, "{position:?}");
        }
    }
}
