//! What every process shares: arguments, settings, signals, drain, and the health endpoint.

pub mod crash;
mod error_chain;
mod health;
mod host;
mod launch;
mod layers;
mod listen;
mod names;
mod private;
mod programs;
mod run;
mod secrets;
mod serve;
mod settings;
mod tls;

pub use error_chain::{error_chain, error_sources};
pub use host::{Host, Latch};
pub use launch::launch;
pub use layers::{Layers, Problems};
pub use listen::listen;
pub use private::{private_folder, write_private};
pub use programs::{UntrustedProgram, find_program, is_root, trusted_program};
pub use run::run;
pub use secrets::{SecretFile, SecretSettings, Secrets, Stamp};
pub use serve::{ServeSettings, Source, serve};
pub use settings::{
    BusSettings, HttpSettings, RegistrySettings, Settings, given, out_of_range,
    plain_text_listener, secret_file,
};
pub use tls::{certificate_fault, tls_error};

/// Installs the one TLS provider of the process; later calls change nothing.
pub fn install_crypto() {
    // Somebody else may have been first, with the same provider: there is only one in this program.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
}
