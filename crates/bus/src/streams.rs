//! Messages in streams: publishing, schedules, and reading what the streams hold.

mod backlog;
pub(crate) mod cause;
pub(crate) mod consumer_position;
pub(crate) mod dead_letters;
pub(crate) mod facts;
mod progress;
pub(crate) mod publish;
pub(crate) mod reader;
pub(crate) mod schedules;
pub(crate) mod status;
pub(crate) mod subject_patterns;
