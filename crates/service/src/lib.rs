//! What every process shares: arguments, settings, signals, drain, and the health endpoint.

pub mod crash;
mod health;
mod host;
mod launch;
mod layers;
mod listen;
mod names;
mod private;
mod run;
mod settings;

pub use host::{Host, Latch};
pub use launch::launch;
pub use layers::{Layers, Problems};
pub use listen::listen;
pub use private::{private_folder, write_private};
pub use run::run;
pub use settings::{BusSettings, HttpSettings, RegistrySettings, Settings, given, secret_file};

/// Installs the one TLS provider of the process; later calls change nothing.
pub fn install_crypto() {
    // Somebody else may have been first, with the same provider: there is only one in this program.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
}
