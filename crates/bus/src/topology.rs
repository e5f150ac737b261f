//! Streams, stages with their consumers, and buckets: the one place that names them.

mod backup_order;
mod buckets;
mod stages;
mod streams;

pub(crate) use backup_order::STREAM_COUNT;
pub use backup_order::{FIRST_PAUSED, LAST_PAUSED, backup_order};
pub use buckets::{BUCKETS, BucketSpec};
pub use sluice_domain::Stage;
pub(crate) use sluice_domain::stages::{DUE, EVENT_SUBJECTS, PULL_SUBJECTS};
pub use sluice_domain::stages::{
    GATEWAY, MIRROR_WORKER, POLLER, PROMOTER, PRUNER, SCANNER_ADAPTER, STAGES, WEBHOOK_DISPATCHER,
};
pub use stages::sources_of;
pub(crate) use stages::{schedule_subjects_of, stream_of};
pub(crate) use streams::{
    API, COMMAND, DEAD_LETTER, EVENTS_AGE, IMPORTED_API, PROGRESS, PULLS_AGE, REPORTS_STREAM,
    SCHEDULE,
};
pub use streams::{AUDIT, DEAD_LETTERS, EVENTS, PULLS, REPORTS, WORK};
