//! Whether there is a checked server, for the scans that wait for one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::trivy::server::checked_server::CheckedServer;

/// How long a scan waits for a server before its message is postponed.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// Whether anything can be scanned now.
#[derive(Debug, Clone)]
pub(crate) enum ServerState {
    Ready(Arc<CheckedServer>),
    /// There is no server, for this reason.
    Waiting(String),
}

impl ServerState {
    const fn is_ready(&self) -> bool {
        matches!(self, Self::Ready(_))
    }
}

/// Gives scans the server whose database was checked; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ServerHandle {
    state: watch::Receiver<ServerState>,
    recheck: Arc<Notify>,
}

/// The supervisor's side of the handles.
#[derive(Debug)]
pub(crate) struct ServerPublisher {
    state: watch::Sender<ServerState>,
    recheck: Arc<Notify>,
}

/// Makes a publisher without a server, for a reason, and a handle.
pub(crate) fn channel(reason: String) -> (ServerPublisher, ServerHandle) {
    let (sender, receiver) = watch::channel(ServerState::Waiting(reason));
    let recheck = Arc::new(Notify::new());
    let publisher = ServerPublisher {
        state: sender,
        recheck: recheck.clone(),
    };
    let handle = ServerHandle {
        state: receiver,
        recheck,
    };
    (publisher, handle)
}

impl ServerHandle {
    /// Waits for a server, for a while.
    ///
    /// # Errors
    /// The reason why there is none.
    pub(crate) async fn server(&self) -> Result<Arc<CheckedServer>, String> {
        let mut state = self.state.clone();
        let ready = state.wait_for(ServerState::is_ready);
        match tokio::time::timeout(MAX_WAIT, ready).await {
            Ok(Ok(state)) => match &*state {
                ServerState::Ready(server) => Ok(server.clone()),
                ServerState::Waiting(reason) => Err(reason.clone()),
            },
            Ok(Err(_)) => Err("the service stops".to_owned()),
            Err(_) => Err(match &*self.state.borrow() {
                ServerState::Waiting(reason) => reason.clone(),
                ServerState::Ready(_) => "the server was only just checked".to_owned(),
            }),
        }
    }

    /// Waits for the first server.
    pub(crate) async fn ready(&self) {
        let mut state = self.state.clone();
        // Without a supervisor nothing is scanned any more, and the process stops.
        state.wait_for(ServerState::is_ready).await.ok();
    }

    /// Requests a check of the server, which just failed.
    pub(crate) fn recheck(&self) {
        self.recheck.notify_one();
    }
}

impl ServerPublisher {
    /// Replaces the state.
    pub(crate) fn publish(&self, state: ServerState) {
        self.state.send_replace(state);
    }

    /// Returns the server that is in use.
    pub(crate) fn current(&self) -> Option<Arc<CheckedServer>> {
        match &*self.state.borrow() {
            ServerState::Ready(server) => Some(server.clone()),
            ServerState::Waiting(_) => None,
        }
    }

    /// Waits until a scan requests a check.
    pub(crate) async fn recheck_requested(&self) {
        self.recheck.notified().await;
    }
}
