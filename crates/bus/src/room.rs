//! Room in the streams of schedules: the server cannot refuse what is new there and would drop what is oldest, which is
//! somebody's work. So whoever writes asks first, and keeps a tenth free for those who write at the same time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::Context;
use thiserror::Error;
use tokio::time::Instant;

use crate::backend::{Outgoing, Refusal};
use crate::provision::limit_of;

/// For how long an answer counts.
const KEPT: Duration = Duration::from_secs(5);
/// What a message takes besides its subject, headers and body, in bytes; rather too much.
const OVERHEAD: u64 = 256;

/// A stream of schedules that is full.
#[derive(Debug, Error)]
#[error("`{stream}` is full; `sluice provision --max-bytes {stream}=SIZE` gives it more room")]
struct Full {
    stream: String,
}

/// What is left in each stream of schedules, as this process knows it; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Room(Arc<Mutex<BTreeMap<String, Left>>>);

#[derive(Debug)]
struct Left {
    asked_at: Instant,
    bytes: u64,
}

impl Room {
    /// Takes room for a message.
    ///
    /// # Errors
    /// A stream that has none, or a server that does not answer.
    pub(crate) async fn take(
        &self,
        context: &Context,
        stream: &str,
        message: &Outgoing,
    ) -> Result<(), Refusal> {
        let headers = message
            .headers
            .iter()
            .map(|(name, value)| name.len() + value.len() + 4);
        let size = message.subject.len() + message.payload.len() + headers.sum::<usize>();
        let size = u64::try_from(size)
            .unwrap_or(u64::MAX)
            .saturating_add(OVERHEAD);
        if self.take_known(stream, size) {
            return Ok(());
        }
        let found = context.get_stream(stream).await.map_err(Refusal::failed)?;
        let info = found.cached_info();
        let limit = limit_of(&info.config).unwrap_or(u64::MAX);
        let bytes = (limit / 10 * 9).saturating_sub(info.state.bytes);
        let left = Left {
            asked_at: Instant::now(),
            bytes,
        };
        self.known().insert(stream.to_owned(), left);
        if self.take_known(stream, size) {
            return Ok(());
        }
        Err(Refusal::failed(Full {
            stream: stream.to_owned(),
        }))
    }

    fn take_known(&self, stream: &str, size: u64) -> bool {
        let mut known = self.known();
        let Some(left) = known
            .get_mut(stream)
            .filter(|left| left.asked_at.elapsed() < KEPT)
        else {
            return false;
        };
        let after = left.bytes.checked_sub(size);
        left.bytes = after.unwrap_or(left.bytes);
        after.is_some()
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Left>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
