//! The `sluice` command: arguments, output and exit codes; other crates do the work.

mod arguments;
mod commands;
mod copies;
mod exit;
mod output;

use std::process::ExitCode;

use crate::arguments::help;
pub use crate::arguments::help::command;
pub use crate::commands::GROUPS;

/// Runs the command and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match help::parse() {
        Ok(arguments) => arguments,
        Err(error) => return output::usage(&error),
    };
    sluice_service::install_crypto();
    match arguments.command.run(&arguments.connection) {
        Ok(code) => code,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::print_error(&error);
            exit::code_of(&error)
        }
    }
}
