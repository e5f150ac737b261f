//! Room in the streams of schedules: a full one cannot refuse new messages, it drops the oldest, which is the work of a
//! stage. So a client checks the room before it writes, and keeps a tenth free for those who write at the same time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::Context;
use thiserror::Error;
use tokio::time::Instant;

use super::backend::Outgoing;
use crate::admin::limits::limit_of;
use crate::error::BackendError;

/// How long the size of a stream is used before it is read again.
const MAX_AGE: Duration = Duration::from_secs(5);
/// An upper bound for what the stream stores of a message besides its subject, headers and body, in bytes.
const OVERHEAD: u64 = 256;

/// A stream of schedules that is full.
#[derive(Debug, Error)]
#[error("`{stream}` is full; `sluice provision --max-bytes {stream}=SIZE` gives it more room")]
struct StreamFull {
    stream: String,
}

/// The room that is left in each stream of schedules, as this process last read it; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct ScheduleRoom(Arc<Mutex<BTreeMap<String, RemainingRoom>>>);

#[derive(Debug)]
struct RemainingRoom {
    read_at: Instant,
    bytes: u64,
}

impl ScheduleRoom {
    /// Takes room for a message, or fails where the stream has none.
    pub(crate) async fn take(
        &self,
        context: &Context,
        stream: &str,
        message: &Outgoing,
    ) -> Result<(), BackendError> {
        let size = size_of(message);
        if self.take_cached(stream, size) {
            return Ok(());
        }
        let handle = context.get_stream(stream).await;
        let handle = handle.map_err(BackendError::failed)?;
        let info = handle.cached_info();
        let limit = limit_of(&info.config).unwrap_or(u64::MAX);
        let remaining = RemainingRoom {
            read_at: Instant::now(),
            bytes: (limit / 10 * 9).saturating_sub(info.state.bytes),
        };
        self.lock().insert(stream.to_owned(), remaining);
        if self.take_cached(stream, size) {
            return Ok(());
        }
        Err(BackendError::failed(StreamFull {
            stream: stream.to_owned(),
        }))
    }

    fn take_cached(&self, stream: &str, size: u64) -> bool {
        let mut streams = self.lock();
        let Some(remaining) = streams
            .get_mut(stream)
            .filter(|remaining| remaining.read_at.elapsed() < MAX_AGE)
        else {
            return false;
        };
        let after = remaining.bytes.checked_sub(size);
        remaining.bytes = after.unwrap_or(remaining.bytes);
        after.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, RemainingRoom>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns how much of a stream a message takes at most, in bytes.
fn size_of(message: &Outgoing) -> u64 {
    let headers = message
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.len() + 4);
    let size = message.subject.len() + message.payload.len() + headers.sum::<usize>();
    u64::try_from(size)
        .unwrap_or(u64::MAX)
        .saturating_add(OVERHEAD)
}
