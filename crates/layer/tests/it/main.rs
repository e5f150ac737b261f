//! Layers of every kind, read by the strict reader and by readers that work as clients do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    reason = "test code"
)]

mod build;
mod builders;
mod clients;
mod generate;
mod generated;
mod go_tar;
mod strict;
mod table;
mod verdicts;
