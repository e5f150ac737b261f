//! Docker's `config.json` and its credential helpers.
//!
//! The crates for it run a helper without a time limit, under any name, and read the environment by themselves.

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

use crate::endpoint::Credential;
use crate::error::Error;
use crate::login::Account;

/// The largest configuration.
const MAX_CONFIG: u64 = 1 << 20;
/// The longest answer of a helper.
const MAX_ANSWER: u64 = 64 << 10;
/// How long a helper may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The name under which Docker keeps the login at Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// What a helper answers for a registry that it does not know.
const UNKNOWN: &str = "credentials not found in native keychain";
/// The user name that says that the secret is an identity token.
const IDENTITY: &str = "<token>";

/// Files with logins, in the order in which they are asked.
#[derive(Debug, Clone)]
pub(crate) struct DockerConfig {
    files: Vec<ConfigLocation>,
    /// Where helpers are found, instead of in the folders of this process.
    path: Option<OsString>,
}

/// Where a configuration is.
#[derive(Debug, Clone)]
enum ConfigLocation {
    /// A person's own file, which may be missing.
    Own(PathBuf),
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
struct Helped {
    username: String,
    secret: SecretString,
}

impl DockerConfig {
    pub(crate) fn new(files: Vec<PathBuf>) -> Self {
        Self {
            files: files.into_iter().map(ConfigLocation::Own).collect(),
            path: None,
        }
    }

    pub(crate) fn secret(config: SecretFile) -> Self {
        Self {
            files: vec![ConfigLocation::Secret(config)],
            path: None,
        }
    }

    /// Finds the account at this registry, and asks of no other.
    pub(crate) async fn account(&self, host: &RegistryHost) -> Result<Option<Account>, Error> {
        for place in &self.files {
            let failed = |reason: String| Error::Credential {
                host: host.to_string(),
                reason: format!("{place}: {reason}"),
            };
            let Some(config) = place.read().await.map_err(failed)? else {
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
            Self::Own(file) => read(file).await,
            Self::Secret(secret) => {
                let text = secret.bytes().map_err(|error| format!("{error:#}"))?;
                Config::parsed(text.expose_secret()).map(Some)
            }
        }
    }
}

impl fmt::Display for ConfigLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(file) => write!(f, "`{}`", file.display()),
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
    Config::parsed(&text).map(Some)
}

/// Says whether a configuration holds a login at this registry; helpers are not asked.
///
/// # Errors
/// What is no such configuration.
pub fn has_login(text: &[u8], host: &RegistryHost) -> Result<bool, String> {
    let login = Config::parsed(text)?.login(host)?;
    Ok(login.is_some())
}

impl Config {
    /// Reads a configuration; the error of the parser is left out, since it could quote a password.
    fn parsed(text: &[u8]) -> Result<Self, String> {
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
        let own = |(key, _): &(&String, &String)| names(key, host);
        let helper = self.cred_helpers.iter().find(own).map(|(_, name)| name);
        if let Some(name) = helper.or(self.creds_store.as_ref())
            && let Some(account) = ask(name, host, path).await?
        {
            return Ok(Some(account));
        }
        self.login(host)
    }

    /// Finds the login that is written into the configuration itself.
    fn login(&self, host: &RegistryHost) -> Result<Option<Account>, String> {
        let mut keys: Vec<_> = self.auths.keys().filter(|key| names(key, host)).collect();
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

/// Says whether a key of the configuration means this registry, all of it; Podman's keys for parts of one do not.
fn names(key: &str, host: &RegistryHost) -> bool {
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
            const BROKEN: &str = "an `auth` is not the base64 of a user name and a password";
            let bytes = STANDARD.decode(auth.expose_secret()).map_err(|_| BROKEN)?;
            let text = String::from_utf8(bytes).map_err(|_| BROKEN)?;
            let (username, password) = text.split_once(':').ok_or(BROKEN)?;
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
    if username == IDENTITY {
        return Account::Identity(secret);
    }
    Account::Password(Credential {
        username: username.to_owned(),
        password: secret,
    })
}

/// Runs a helper; what it says is told to nobody, since it may be a secret.
async fn ask(
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
    let ran = tokio::time::timeout(PATIENCE, run(&file, server, path)).await;
    let (succeeded, answer) = ran
        .map_err(|_| format!("`{program}` did not answer within {} s", PATIENCE.as_secs()))?
        .map_err(|error| format!("`{program}` could not be run: {error}"))?;
    if answer.len() as u64 > MAX_ANSWER {
        return Err(format!("`{program}` says more than {MAX_ANSWER} bytes"));
    }
    if !succeeded {
        let told = String::from_utf8_lossy(&answer);
        if told.trim() == UNKNOWN {
            return Ok(None);
        }
        return Err(format!("`{program}` failed"));
    }
    let helped: Helped = serde_json::from_slice(&answer)
        .map_err(|_| format!("`{program}` does not answer in the form of a credential helper"))?;
    Ok(Some(account(&helped.username, helped.secret)))
}

/// Returns whether the program succeeded, and the beginning of what it says.
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
        // One that does not read its input may know the answer all the same.
        input.write_all(server.as_bytes()).await.ok();
    }
    let mut answer = Vec::new();
    if let Some(output) = child.stdout.take() {
        output.take(MAX_ANSWER + 1).read_to_end(&mut answer).await?;
    }
    if answer.len() as u64 > MAX_ANSWER {
        return Ok((true, answer));
    }
    Ok((child.wait().await?.success(), answer))
}

#[cfg(test)]
mod tests;
