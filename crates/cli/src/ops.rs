//! Commands that operate an installation.

pub(crate) mod backup;
pub(crate) mod dead_letters;
pub(crate) mod install;
pub(crate) mod nats_config;
pub(crate) mod pause;
pub(crate) mod prepare;
pub(crate) mod queue;
pub(crate) mod reconcile;
pub(crate) mod registry_check;
pub(crate) mod resources;
pub(crate) mod restore;
pub(crate) mod up;
