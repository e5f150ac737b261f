//! Missing permissions: the server tells them apart from the operation, which would only see that nobody answers.

use std::future::Future;
use std::sync::Arc;

use async_nats::{Event, ServerError};
use chrono::TimeDelta;
use sluice_domain::Class;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::error::Error;
use crate::permissions::API;
use crate::server_config::IMPORTED_API;

/// More refusals at once are of interest to nobody.
const KEPT: usize = 64;
/// When work is looked at again that lacked a permission: a person has to give it.
const LOOK_AGAIN: TimeDelta = TimeDelta::seconds(60);

/// What the server refused to one connection; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Denials {
    user: Arc<str>,
    told: broadcast::Sender<String>,
}

impl Denials {
    pub(crate) fn new(user: &str) -> Self {
        Self {
            user: user.into(),
            told: broadcast::channel(KEPT).0,
        }
    }

    /// Takes note of what the server says.
    pub(crate) fn notice(&self, event: &Event) {
        if let Event::ServerError(ServerError::Other(text)) = event
            && let Some(subject) = subject(text)
        {
            // Nobody may be waiting for it.
            self.told.send(subject).ok();
        }
    }

    /// Carries out an operation, and fails at once where the server refuses a subject that it is about.
    pub(crate) async fn fail_on_permission_violation<T, E: From<Error>>(
        &self,
        about: &[&str],
        operation: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut told = self.told.subscribe();
        let denied = async {
            loop {
                match told.recv().await {
                    Ok(subject) if about.iter().any(|part| subject.contains(part)) => {
                        return subject;
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    // The sender lives as long as we do.
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            biased;
            done = operation => done,
            subject = denied => Err(Error::Denied { user: self.user.to_string(), subject }.into()),
        }
    }
}

/// Says that a denied operation waits, which is not an attempt: no message is lost for a right that somebody forgot.
pub(crate) fn class() -> Class {
    Class::Unavailable {
        until: sluice_domain::now() + LOOK_AGAIN,
    }
}

/// Reads the subject of a refusal, by the name that the client used.
fn subject(text: &str) -> Option<String> {
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

    fn refusal(text: &str) -> Event {
        Event::ServerError(ServerError::Other(text.to_owned()))
    }

    #[test]
    fn the_subject_of_a_refusal_is_read() {
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
            assert_eq!(subject(text).as_deref(), expected, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_ends_with_the_refusal_of_its_own_subject() {
        let denials = Denials::new("poller");
        let forever = || async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            Ok::<_, Error>(())
        };
        let mine = denials.fail_on_permission_violation(&["$KV.tags.", "KV_tags"], forever());
        let other = denials.fail_on_permission_violation(&["KV_images"], forever());
        let server = async {
            tokio::task::yield_now().await;
            denials.notice(&refusal(
                "Permissions Violation for Publish to \"$KV.tags.a\"",
            ));
        };
        let (mine, other, ()) = tokio::join!(mine, other, server);
        let told = mine.unwrap_err().to_string();
        assert!(
            told.contains("`poller`") && told.contains("`$KV.tags.a`"),
            "{told}"
        );
        other.unwrap();
    }
}
