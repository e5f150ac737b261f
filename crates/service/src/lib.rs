//! What every process shares: arguments, settings, signals, drain, and the health endpoint.

mod health;
mod host;
mod launch;
mod settings;

pub use host::Host;
pub use launch::launch;
pub use settings::{BusSettings, HttpSettings, RegistrySettings, Settings, secret_file};

/// Installs the one TLS provider of the process; later calls change nothing.
pub fn install_crypto() {
    // Somebody else may have been first, with the same provider: there is only one in this program.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
}
