//! Docker's `config.json` and its credential helpers.
//!
//! The existing crates for it run a helper without a time limit, under any name, and read the environment themselves.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use sluice_domain::RegistryHost;
use sluice_service::{SecretFile, find_program};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::endpoint::account::{Account, Credential};
use crate::error::Error;

/// The largest configuration.
const MAX_CONFIG: u64 = 1 << 20;
/// The largest output of a helper.
const MAX_OUTPUT: u64 = 64 << 10;
/// How long a helper may take.
const HELPER_TIMEOUT: Duration = Duration::from_secs(10);
/// The key under which Docker stores the login at Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// The output of a helper without a login for the registry.
const NO_LOGIN: &str = "credentials not found in native keychain";
/// The user name with which a secret is an identity token.
const IDENTITY_TOKEN: &str = "<token>";

/// Files with logins, in the order in which they are read.
#[derive(Debug, Clone)]
pub(crate) struct DockerConfig {
    files: Vec<ConfigLocation>,
    /// The `PATH` for helpers, instead of that of this process.
    path: Option<OsString>,
}

/// The location of a configuration.
#[derive(Debug, Clone)]
enum ConfigLocation {
    /// A file of the user, which may be missing.
    User(PathBuf),
    /// A secret that a resource names.
    Secret(SecretFile),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: HashMap<String, Login>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Login {
    auth: Option<SecretString>,
    username: Option<String>,
    password: Option<SecretString>,
    identitytoken: Option<SecretString>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperOutput {
    username: String,
    secret: SecretString,
}

impl DockerConfig {
    pub(crate) fn new(files: Vec<PathBuf>) -> Self {
        Self {
            files: files.into_iter().map(ConfigLocation::User).collect(),
            path: None,
        }
    }

    pub(crate) fn secret(config: SecretFile) -> Self {
        Self {
            files: vec![ConfigLocation::Secret(config)],
            path: None,
        }
    }

    /// Returns the account at a registry.
    pub(crate) async fn account(&self, host: &RegistryHost) -> Result<Option<Account>, Error> {
        for location in &self.files {
            let failed = |reason: String| Error::Credential {
                host: host.to_string(),
                reason: format!("{location}: {reason}"),
            };
            let Some(config) = location.read().await.map_err(failed)? else {
                continue;
            };
            if let Some(account) = config
                .account(host, self.path.as_deref())
                .await
                .map_err(failed)?
            {
                return Ok(Some(account));
            }
        }
        Ok(None)
    }
}

impl ConfigLocation {
    async fn read(&self) -> Result<Option<Config>, String> {
        match self {
            Self::User(file) => read(file).await,
            Self::Secret(secret) => {
                let text = secret.bytes().map_err(|error| format!("{error:#}"))?;
                Config::parse(text.expose_secret()).map(Some)
            }
        }
    }
}

impl fmt::Display for ConfigLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(file) => write!(f, "`{}`", file.display()),
            Self::Secret(secret) => secret.fmt(f),
        }
    }
}

async fn read(file: &Path) -> Result<Option<Config>, String> {
    let opened = match tokio::fs::File::open(file).await {
        Ok(opened) => opened,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut text = Vec::new();
    let mut limited = opened.take(MAX_CONFIG + 1);
    let length = limited.read_to_end(&mut text).await;
    if length.map_err(|error| error.to_string())? as u64 > MAX_CONFIG {
        return Err(format!("it is larger than {MAX_CONFIG} bytes"));
    }
    Config::parse(&text).map(Some)
}

/// Returns whether a configuration has a login for a registry; helpers are not run.
///
/// # Errors
/// A text that is no configuration.
pub fn has_login(text: &[u8], host: &RegistryHost) -> Result<bool, String> {
    let login = Config::parse(text)?.login(host)?;
    Ok(login.is_some())
}

impl Config {
    /// Parses a configuration; the error of the parser is left out, since it could quote a password.
    fn parse(text: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(text).map_err(|error| {
            format!(
                "it is not Docker's JSON at line {} column {}",
                error.line(),
                error.column()
            )
        })
    }

    async fn account(
        &self,
        host: &RegistryHost,
        path: Option<&OsStr>,
    ) -> Result<Option<Account>, String> {
        let own = |(key, _): &(&String, &String)| is_key_of(key, host);
        let helper = self.cred_helpers.iter().find(own).map(|(_, name)| name);
        if let Some(name) = helper.or(self.creds_store.as_ref())
            && let Some(account) = run_helper(name, host, path).await?
        {
            return Ok(Some(account));
        }
        self.login(host)
    }

    /// Returns the login in the configuration itself.
    fn login(&self, host: &RegistryHost) -> Result<Option<Account>, String> {
        let mut keys: Vec<_> = self
            .auths
            .keys()
            .filter(|key| is_key_of(key, host))
            .collect();
        keys.sort();
        for key in keys {
            if let Some(account) = self
                .auths
                .get(key)
                .map(Login::account)
                .transpose()?
                .flatten()
            {
                return Ok(Some(account));
            }
        }
        Ok(None)
    }
}

/// Returns whether a key of the configuration names the whole registry; Podman's keys for parts of one do not.
fn is_key_of(key: &str, host: &RegistryHost) -> bool {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let (authority, path) = bare.split_once('/').unwrap_or((bare, ""));
    matches!(path, "" | "v1" | "v1/" | "v2" | "v2/")
        && authority
            .parse::<RegistryHost>()
            .is_ok_and(|named| named == *host)
}

impl Login {
    fn account(&self) -> Result<Option<Account>, String> {
        let filled = |secret: &&SecretString| !secret.expose_secret().is_empty();
        if let Some(token) = self.identitytoken.as_ref().filter(filled) {
            return Ok(Some(Account::Identity(token.clone())));
        }
        if let Some(auth) = self.auth.as_ref().filter(filled) {
            const INVALID: &str = "an `auth` is not the base64 of a user name and a password";
            let bytes = STANDARD.decode(auth.expose_secret()).map_err(|_| INVALID)?;
            let text = String::from_utf8(bytes).map_err(|_| INVALID)?;
            let (username, password) = text.split_once(':').ok_or(INVALID)?;
            return Ok(Some(account(
                username,
                password.trim_end_matches('\0').to_owned().into(),
            )));
        }
        let both = self.username.as_ref().zip(self.password.as_ref());
        Ok(both.map(|(username, password)| account(username, password.clone())))
    }
}

fn account(username: &str, secret: SecretString) -> Account {
    if username == IDENTITY_TOKEN {
        return Account::Identity(secret);
    }
    Account::Password(Credential {
        username: username.to_owned(),
        password: secret,
    })
}

/// Runs a helper; no message quotes its output, which may be a secret.
async fn run_helper(
    name: &str,
    host: &RegistryHost,
    path: Option<&OsStr>,
) -> Result<Option<Account>, String> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || !name.bytes().all(is_plain) {
        return Err(format!(
            "a credential helper is named by lower-case letters, digits and dashes, not `{}`",
            name.chars()
                .take(40)
                .flat_map(char::escape_default)
                .collect::<String>()
        ));
    }
    let program = format!("docker-credential-{name}");
    let file = find_program(&[&program], path)
        .map_err(|error| error.to_string())?
        .ok_or_else(|| format!("`{program}` could not be run: it is not on the path"))?;
    let server = if host.is_docker_hub() {
        DOCKER_HUB
    } else {
        host.as_str()
    };
    let ran = tokio::time::timeout(HELPER_TIMEOUT, run(&file, server, path)).await;
    let (is_success, output) = ran
        .map_err(|_| {
            format!(
                "`{program}` did not answer within {} s",
                HELPER_TIMEOUT.as_secs()
            )
        })?
        .map_err(|error| format!("`{program}` could not be run: {error}"))?;
    if output.len() as u64 > MAX_OUTPUT {
        return Err(format!("`{program}` prints more than {MAX_OUTPUT} bytes"));
    }
    if !is_success {
        let text = String::from_utf8_lossy(&output);
        if text.trim() == NO_LOGIN {
            return Ok(None);
        }
        return Err(format!("`{program}` failed"));
    }
    let output: HelperOutput = serde_json::from_slice(&output)
        .map_err(|_| format!("`{program}` does not print what a credential helper prints"))?;
    Ok(Some(account(&output.username, output.secret)))
}

/// Returns whether the program succeeded, and the beginning of its output.
async fn run(
    program: &Path,
    server: &str,
    path: Option<&OsStr>,
) -> std::io::Result<(bool, Vec<u8>)> {
    let mut command = Command::new(program);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let mut child = command
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read its input may still print a login.
        input.write_all(server.as_bytes()).await.ok();
    }
    let mut answer = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(MAX_OUTPUT + 1).read_to_end(&mut answer).await?;
    }
    if answer.len() as u64 > MAX_OUTPUT {
        return Ok((true, answer));
    }
    Ok((child.wait().await?.success(), answer))
}

#[cfg(test)]
mod tests;
