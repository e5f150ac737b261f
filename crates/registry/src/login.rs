//! Where the account at a registry is read: at use, so that it can be rotated while the client lives.

use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};
use sluice_domain::RegistryHost;
use sluice_service::SecretFile;

use crate::docker::DockerConfig;
use crate::endpoint::Credential;
use crate::error::Error;

/// Where an account is read.
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

    /// Reads Docker's `config.json`, and runs the credential helpers that it names; the first file that knows the
    /// registry decides, and a file that does not exist knows none.
    #[must_use]
    pub fn docker_config(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self(Source::Docker(DockerConfig::new(
            files.into_iter().collect(),
        )))
    }

    /// Reads the files in which Docker and Podman keep the logins of the person whose variables these are.
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

    /// Returns the user name, where it is known without reading anything.
    pub(crate) fn username(&self) -> Option<&str> {
        match &self.0 {
            Source::Password { username, .. } => Some(username),
            Source::Docker(_) => None,
        }
    }

    /// Reads the account at a registry; none where nothing is known of it.
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

/// What proves to a registry who asks.
#[derive(Debug, Clone)]
pub(crate) enum Account {
    /// A user name and a password.
    Password(Credential),
    /// An identity token, which the token issuer exchanges for access tokens.
    Identity(SecretString),
}

impl Account {
    /// Returns what nobody else may see.
    pub(crate) fn secrets(&self) -> Vec<String> {
        use http_auth::basic::encode_credentials;
        match self {
            Self::Password(Credential { username, password }) => {
                let password = password.expose_secret();
                let encoded = encode_credentials(username, password);
                vec![without_scheme(&encoded).to_owned(), password.to_owned()]
            }
            Self::Identity(token) => vec![token.expose_secret().to_owned()],
        }
    }

    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Password(one), Self::Password(other)) => {
                one.username == other.username
                    && one.password.expose_secret() == other.password.expose_secret()
            }
            (Self::Identity(one), Self::Identity(other)) => {
                one.expose_secret() == other.expose_secret()
            }
            _ => false,
        }
    }
}

/// Returns what a header says after its scheme, which others may write in another way or leave out.
pub(crate) fn without_scheme(value: &str) -> &str {
    value.split_once(' ').map_or(value, |(_, rest)| rest)
}
