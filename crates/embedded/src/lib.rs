//! `sluice up`: nats-server and a registry as child processes, and every service in this process.
//!
//! The services start through the same entries as their own binaries. This crate writes nothing to standard output.

mod data_folder;
mod endpoints;
mod options;
mod programs;
mod registry_config;
mod resources;
mod run;
mod servers;
mod services;
mod startup_check;

pub use data_folder::SECRETS;
pub use endpoints::{DEFAULT_NATS_URL, Endpoints, NatsEndpoint};
pub use options::{Options, ProgramOptions, ResourceFile};
pub use registry_config::RegistryConfig;
pub use resources::{
    AppliedResource, InvalidResources, apply as apply_resources, read as read_resources,
};
pub use run::{AppliedFile, run};
