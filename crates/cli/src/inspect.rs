//! Commands that show the state of an installation.

pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod status;
