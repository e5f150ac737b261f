//! Names of spans, the same in every process.

use tracing::Span;

/// One poll of a mirror.
pub const POLL: &str = "poll";
/// One copy of an image.
pub const MIRROR: &str = "mirror";
/// One scan of an image.
pub const SCAN: &str = "scan";
/// One judgement of an image.
pub const PROMOTE: &str = "promote";
/// One retention run.
pub const PRUNE: &str = "prune";
/// One comparison of the registry with what is known of it.
pub const COMPARE: &str = "compare";
/// One delivery to an endpoint.
pub const DELIVER: &str = "deliver";

/// What the span of a task is filed under; matched by `sluice=info`, and never exported.
pub(crate) const TASK_TARGET: &str = "sluice.task";

/// Returns the span that names the service and the task in the log lines of a task.
///
/// A task lives as long as the process, so its span is no part of any trace.
#[must_use]
pub fn task(service: &str, name: &str) -> Span {
    tracing::info_span!(target: TASK_TARGET, "task", service, task = name)
}
