//! Names of spans, the same in every process.

use tracing::Span;

/// One poll of a mirror.
pub const POLL: &str = "poll";
/// One copy of an image.
pub const MIRROR: &str = "mirror";
/// One scan of an image.
pub const SCAN: &str = "scan";
/// One evaluation of an image.
pub const PROMOTE: &str = "promote";
/// One retention run.
pub const PRUNE: &str = "prune";
/// One comparison of the registry with the state.
pub const COMPARE: &str = "compare";
/// One delivery to an endpoint.
pub const DELIVER: &str = "deliver";

/// The target of the span of a task; `sluice=info` matches it, and it is never exported.
pub(crate) const TASK_TARGET: &str = "sluice.task";

/// Returns the span that adds the service and the task to the log lines of a task.
///
/// A task lives as long as the process, so its span belongs to no trace.
#[must_use]
pub fn task(service: &str, name: &str) -> Span {
    tracing::info_span!(target: TASK_TARGET, "task", service, task = name)
}
