//! Tags: what their names say of version and date, which of two is newer, and which a mirror selects.

pub(crate) mod natural;
pub mod range;
pub mod select;
pub mod tag_age;
pub mod tag_date;
pub mod version;
