//! What all stages share: how they run and reconcile, and the pause of promotion and deletion.

pub(crate) mod pause;
pub mod reconcile;
pub(crate) mod stage_runner;
