//! What all stages share: how they run and reconcile, and the pause of promotion and deletion.

mod log_watch;
pub(crate) mod pause;
pub mod reconcile;
pub(crate) mod stage_runner;
