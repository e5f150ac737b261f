//! Administration of a server: permissions, provisioning, limits, snapshots, pauses.

mod jetstream_api;
pub(crate) mod limits;
pub(crate) mod lookup;
mod pause;
pub mod permissions;
pub(crate) mod provision;
mod restore;
pub(crate) mod server_config;
pub(crate) mod snapshot;
pub(crate) mod stream_configs;
pub(crate) mod subscribers;
mod verify;
