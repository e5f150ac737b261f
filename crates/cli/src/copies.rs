//! What the commands that copy between registries share: the documents that they read, progress and reports.

pub(crate) mod documents;
pub(crate) mod progress_bars;
pub(crate) mod render;
pub(crate) mod sync_report;

/// The default number of images that are checked or copied concurrently.
pub(crate) const PARALLEL: u16 = 16;
