//! Probes a server that is not a service of Sluice, for the health checks of its container.

use std::process::ExitCode;

fn main() -> ExitCode {
    sluice_service::probe_main()
}
