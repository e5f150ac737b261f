//! Checks the committed generated code against the protocol, and every golden message against the code.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "test code"
)]

mod drift;
mod golden;
