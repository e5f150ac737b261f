//! What every process shares: arguments, settings, secrets, signals, drain, health, and how listeners serve HTTP.

pub mod crash;
mod error_chain;
mod private_files;
mod process;
mod programs;
mod serve;
mod settings;
mod tls;

pub use error_chain::{error_chain, error_sources};
pub use private_files::{create_private_folder, write_private_file};
pub use process::host::{Host, Latch};
pub use process::launch::{launch, probe_main};
pub use process::run::run;
pub use programs::{UntrustedProgram, check_program, find_program, is_root};
pub use serve::client_network::{ClientNetwork, ServeSettings};
pub use serve::listen::listen;
pub use serve::serve;
pub use settings::secrets::{SecretFile, SecretSettings, SecretVersion, Secrets};
pub use settings::sources::{SettingsErrors, SettingsSources};
pub use settings::{
    BusSettings, HttpSettings, RegistrySettings, Settings, non_empty, out_of_range,
    plain_text_listener, secret_file,
};
pub use tls::{certificate_fault, install_crypto, tls_error};
