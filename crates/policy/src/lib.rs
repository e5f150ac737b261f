//! Pure decisions: values in, a decision with its reasons out. No I/O and no clock: callers pass the time.

pub mod check;
pub mod condition;
pub mod cron;
pub mod promotion;
pub mod range;
pub mod retention;
pub mod rules;
pub mod select;
pub mod template;
pub mod version;

pub use range::Range;
pub use select::{Selected, select};
pub use version::TagVersion;
