//! Sources of credentials: they are read at use, so that a credential can be rotated while the client lives.

use std::path::PathBuf;

use sluice_domain::RegistryHost;
use sluice_service::SecretFile;

use crate::endpoint::account::{Account, Credential};
use crate::endpoint::docker_config::DockerConfig;
use crate::error::Error;

/// A source of the credential for a registry.
#[derive(Debug, Clone)]
pub struct CredentialSource(Source);

#[derive(Debug, Clone)]
enum Source {
    Password { username: String, file: SecretFile },
    Docker(DockerConfig),
}

impl CredentialSource {
    /// Reads the password of a user.
    #[must_use]
    pub fn password(username: &str, file: SecretFile) -> Self {
        Self(Source::Password {
            username: username.to_owned(),
            file,
        })
    }

    /// Reads Docker's `config.json` in a secret, and runs the credential helpers that it names.
    #[must_use]
    pub fn docker_config_secret(config: SecretFile) -> Self {
        Self(Source::Docker(DockerConfig::secret(config)))
    }

    /// Reads Docker's `config.json`, and runs the credential helpers that it names. The first file with a login for the
    /// registry is used; a file that does not exist is skipped.
    #[must_use]
    pub fn docker_config(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(Source::Docker(DockerConfig::new(
            files.into_iter().collect(),
        )))
    }

    /// Reads the files in which Docker and Podman store the logins of a user, given the environment variables of that user.
    ///
    /// `REGISTRY_AUTH_FILE` alone, where it is set; or else `config.json` in `DOCKER_CONFIG` or `~/.docker`, then
    /// `containers/auth.json` in `XDG_RUNTIME_DIR` and in `~/.config`.
    #[must_use]
    pub fn personal(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Self {
        let folder = |name: &str| {
            let value = variable(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        if let Some(file) = folder("REGISTRY_AUTH_FILE") {
            return Self::docker_config([file]);
        }
        let home = folder("HOME");
        let under_home = |path: &str| home.as_ref().map(|home| home.join(path));
        let docker = folder("DOCKER_CONFIG").or_else(|| under_home(".docker"));
        let files = [
            docker.map(|folder| folder.join("config.json")),
            folder("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
            under_home(".config/containers/auth.json"),
        ];
        Self::docker_config(files.into_iter().flatten())
    }

    /// Returns the user name, if it is known without I/O.
    pub(crate) fn username(&self) -> Option<&str> {
        match &self.0 {
            Source::Password { username, .. } => Some(username),
            Source::Docker(_) => None,
        }
    }

    /// Reads the account for a registry, if the source has one.
    pub(crate) async fn read(&self, host: &RegistryHost) -> Result<Option<Account>, Error> {
        match &self.0 {
            Source::Password { username, file } => {
                let password = file.text().map_err(|error| Error::Credential {
                    host: host.to_string(),
                    reason: format!("{error:#}"),
                })?;
                Ok(Some(Account::Password(Credential {
                    username: username.clone(),
                    password,
                })))
            }
            Source::Docker(config) => config.account(host).await,
        }
    }
}
