//! The client against a registry that can lie, and that counts what it is asked for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "test code"
)]

mod accounts;
mod attachment;
mod deleting;
mod deviations;
mod engine;
mod generated_documents;
mod hostile;
mod memory_registry;
mod mount_within_repository;
mod mutual;
mod password_registry;
mod proxies;
mod raw;
mod real;
mod referrers;
mod request_economy;
mod scripted_registry;
mod tls;
mod tunnel;
