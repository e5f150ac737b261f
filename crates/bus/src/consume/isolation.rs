//! Isolation of messages that may have killed the process: they run alone in their stage.

use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::jitter::jitter;

/// The delivery from which on a message is isolated. A retry is a new message, so only deliveries count that no process
/// acknowledged.
const FIRST_ISOLATED_DELIVERY: i64 = 3;

/// Held for writing by an isolated message, so that it takes no others with it if it kills the process.
#[derive(Debug, Default)]
pub(crate) struct Isolation(RwLock<()>);

/// Lets a message run until it is dropped: with others, or alone.
pub(crate) struct IsolationGuard<'a> {
    _shared: Option<RwLockReadGuard<'a, ()>>,
    _exclusive: Option<RwLockWriteGuard<'a, ()>>,
}

impl Isolation {
    /// Waits until a message with this number of deliveries may run.
    ///
    /// Other messages that were in the process when it was killed are redelivered together with the one that killed it.
    /// The random delay changes their order, so that they are done before it kills the process again.
    pub(crate) async fn enter(&self, delivered: i64) -> IsolationGuard<'_> {
        if delivered < FIRST_ISOLATED_DELIVERY {
            return IsolationGuard {
                _shared: Some(self.0.read().await),
                _exclusive: None,
            };
        }
        tokio::time::sleep(Duration::from_secs(1).mul_f64(jitter())).await;
        IsolationGuard {
            _shared: None,
            _exclusive: Some(self.0.write().await),
        }
    }
}
