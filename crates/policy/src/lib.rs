//! Pure decisions: values in, a decision with its reasons out.

pub mod check;
pub mod range;
pub mod select;
pub mod version;

pub use range::Range;
pub use select::{Selected, select};
pub use version::TagVersion;
