//! The life of a process: arguments, start, health, signals, drain.

mod active_names;
mod health;
pub(crate) mod host;
pub(crate) mod launch;
mod probe;
pub(crate) mod run;
