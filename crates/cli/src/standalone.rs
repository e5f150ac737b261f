//! Commands that need no installation: they read files and registries.

pub(crate) mod copy;
mod documents;
pub(crate) mod import;
pub(crate) mod plan;
mod progress_bars;
mod registry_options;
mod render;
pub(crate) mod sync;
mod sync_report;
pub(crate) mod tags;
