//! Checks generated code and documentation against the protocol, and every golden message against the code.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::too_many_lines,
    reason = "test code"
)]

mod docs;
mod drift;
mod event_lists;
mod field_types;
mod generated;
mod golden;
mod protocol;
mod repositories;
mod samples;
mod structs;
