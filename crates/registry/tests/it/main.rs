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
mod gate;
mod gentle;
mod hostile;
mod liar;
mod mutual;
mod own;
mod peer;
mod proxies;
mod raw;
mod readings;
mod real;
mod referrers;
mod tls;
mod tunnel;
