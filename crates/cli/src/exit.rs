//! The exit codes of the commands, and the errors that choose one.

use std::process::ExitCode;

use sluice_copier::ConfigurationError;

use crate::output;

/// Something failed; the rest was done.
pub(crate) const FAILED: u8 = 1;
/// The arguments are wrong, as clap has it.
const USAGE: u8 = 2;
/// A file or a setting cannot be used, as in `sysexits.h`.
const CONFIGURATION: u8 = 78;
/// The command was interrupted, as shells have it.
pub(crate) const INTERRUPTED: u8 = 130;

/// The exit codes in the help of the commands that copy.
pub(crate) const HELP: &str = "Exit codes:
  0    everything is up to date
  1    something failed; everything else was done
  2    the arguments are wrong
  78   a file, a credential or a certificate cannot be used
  130  interrupted; no tag is incomplete";

/// Prints a problem with the arguments that clap cannot detect, and returns the exit code.
pub(crate) fn usage_error(reason: &str) -> ExitCode {
    output::print_error(&anyhow::anyhow!("{reason}"));
    ExitCode::from(USAGE)
}

/// Returns the exit code for an error.
pub(crate) fn code_of(error: &anyhow::Error) -> ExitCode {
    let is_configuration = error
        .chain()
        .any(<dyn std::error::Error>::is::<ConfigurationError>);
    ExitCode::from(if is_configuration {
        CONFIGURATION
    } else {
        FAILED
    })
}
