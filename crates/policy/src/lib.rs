//! Pure decisions: values in, a decision with its reasons out. No I/O and no clock: callers pass the time.

pub mod check;
pub mod condition;
pub mod cron;
pub mod promotion;
pub mod retention;
pub mod tags;

pub use tags::range::Range;
pub use tags::select::{ExclusionReason, SelectedTags, select};
pub use tags::tag_age::TagAge;
pub use tags::version::TagVersion;
