//! Pure decisions: values in, a decision with its reasons out. No I/O and no clock: callers pass the time.

pub mod check;
pub mod condition;
pub mod cron;
mod natural;
pub mod order;
pub mod overlap;
pub mod promotion;
pub mod range;
pub mod retention;
pub mod rules;
pub mod select;
pub mod tag_date;
pub mod template;
pub mod version;

pub use order::TagAge;
pub use range::Range;
pub use select::{LeftOut, Selected, select};
pub use version::TagVersion;
