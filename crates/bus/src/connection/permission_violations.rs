//! Permission violations: the server reports them apart from the operation, which would only time out.

use std::future::Future;
use std::sync::Arc;

use async_nats::{Event, ServerError};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::error::Error;
use crate::topology::{API, IMPORTED_API};

/// How many violations are kept for operations that have not read them yet.
const CAPACITY: usize = 64;

/// The permission violations of one connection; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct PermissionViolations {
    user: Arc<str>,
    subjects: broadcast::Sender<String>,
}

impl PermissionViolations {
    pub(crate) fn new(user: &str) -> Self {
        Self {
            user: user.into(),
            subjects: broadcast::channel(CAPACITY).0,
        }
    }

    /// Records a violation that the server reports.
    pub(crate) fn record(&self, event: &Event) {
        if let Event::ServerError(ServerError::Other(text)) = event
            && let Some(subject) = parse_subject(text)
        {
            // No operation may be waiting.
            self.subjects.send(subject).ok();
        }
    }

    /// Carries out an operation, and fails at once when the server refuses a subject that contains one of `parts`.
    pub(crate) async fn fail_on<T, E: From<Error>>(
        &self,
        parts: &[&str],
        operation: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut subjects = self.subjects.subscribe();
        let violation = async {
            loop {
                match subjects.recv().await {
                    Ok(subject) if parts.iter().any(|part| subject.contains(part)) => {
                        return subject;
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    // The sender lives as long as `self`.
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            biased;
            result = operation => result,
            subject = violation => {
                Err(Error::PermissionViolation { user: self.user.to_string(), subject }.into())
            }
        }
    }
}

/// Reads the subject of a violation, as the client had named it before the account mapped it.
fn parse_subject(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("Permissions Violation for ")?;
    let (_, rest) = rest.split_once('"')?;
    let (subject, _) = rest.split_once('"')?;
    Some(match subject.strip_prefix(IMPORTED_API) {
        Some(request) => format!("{API}{request}"),
        None => subject.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn violation(text: &str) -> Event {
        Event::ServerError(ServerError::Other(text.to_owned()))
    }

    #[test]
    fn the_subject_of_a_violation_is_read() {
        for (text, expected) in [
            (
                "Permissions Violation for Publish to \"$KV.tags.a\"",
                Some("$KV.tags.a"),
            ),
            (
                "Permissions Violation for Publish to \"sluice.api.STREAM.INFO.X\"",
                Some("$JS.API.STREAM.INFO.X"),
            ),
            (
                "Permissions Violation for Subscription to \">\" using queue \"q\"",
                Some(">"),
            ),
            ("Stale Connection", None),
            ("Permissions Violation for Publish to", None),
        ] {
            assert_eq!(parse_subject(text).as_deref(), expected, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_fails_on_the_violation_of_its_own_subject() {
        let violations = PermissionViolations::new("poller");
        let forever = || async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            Ok::<_, Error>(())
        };
        let mine = violations.fail_on(&["$KV.tags.", "KV_tags"], forever());
        let other = violations.fail_on(&["KV_images"], forever());
        let server = async {
            tokio::task::yield_now().await;
            violations.record(&violation(
                "Permissions Violation for Publish to \"$KV.tags.a\"",
            ));
        };
        let (mine, other, ()) = tokio::join!(mine, other, server);
        let message = mine.unwrap_err().to_string();
        assert!(
            message.contains("`poller`") && message.contains("`$KV.tags.a`"),
            "{message}"
        );
        other.unwrap();
    }
}
