//! The notifications of the internal registry: their intake, and what follows from pushes, deletions and pulls.

pub(crate) mod decode;
pub(crate) mod intake;
pub(crate) mod observed_tag;
pub(crate) mod pulls;
mod pushed_tags;
