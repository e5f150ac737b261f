//! Streams, stages with their consumers, and buckets: the one place that names them.

mod backup_order;
mod buckets;
mod stages;
mod streams;

pub use backup_order::{BACKUP_ORDER, FIRST_PAUSED, LAST_PAUSED};
pub use buckets::{BUCKETS, BucketSpec};
pub(crate) use stages::stream_of;
pub use stages::{
    GATEWAY, MIRROR_WORKER, POLLER, PROMOTER, PRUNER, SCANNER_ADAPTER, STAGES, Stage,
    WEBHOOK_DISPATCHER,
};
pub(crate) use streams::{
    API, COMMAND, DEAD_LETTER, DUE, EVENT_SUBJECTS, EVENTS_AGE, IMPORTED_API, PROGRESS,
    PULL_SUBJECTS, PULLS_AGE, SCHEDULE,
};
pub use streams::{AUDIT, DEAD_LETTERS, EVENTS, PULLS, REPORTS, WORK};
