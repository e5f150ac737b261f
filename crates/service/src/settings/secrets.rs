//! The folder of secrets that resources name, and which secret may be sent where.
//!
//! Whoever may apply resources chooses names, hosts and proxies, but cannot write into this folder. So what a secret may
//! be used for is written here and nowhere else: a secret goes only to the hosts in the file `NAME.hosts` beside it, and
//! one without that file is sent to no host.

use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde::Deserialize;
use sluice_domain::{Origin, SecretName};

use super::{non_empty, secret_file};

/// The largest secret, and the largest list of hosts, in bytes.
const MAX_BYTES: u64 = 64 << 10;
/// The suffix of the file that lists the hosts to which a secret may be sent.
const HOSTS: &str = ".hosts";
/// A file that only the folder of `sluice keys` contains.
const SIGNING_KEY: &str = "signing-key.pem";

/// The settings of the folder of secrets.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSettings {
    /// The folder, with one file for each secret.
    #[serde(default, deserialize_with = "non_empty")]
    dir: Option<PathBuf>,
}

impl SecretSettings {
    /// Returns the folder of secrets.
    #[must_use]
    pub fn secrets(&self) -> Secrets {
        Secrets {
            folder: self.dir.clone(),
        }
    }
}

/// The folder of secrets that resources name; a file is read when its secret is used.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    folder: Option<PathBuf>,
}

/// A secret: a file that settings or arguments name, or one of the folder that a resource names.
#[derive(Debug, Clone)]
pub struct SecretFile(Source);

#[derive(Debug, Clone)]
enum Source {
    Path(PathBuf),
    Named {
        secrets: Secrets,
        name: SecretName,
        usage: Usage,
    },
}

/// The use of a secret of the folder.
#[derive(Debug, Clone)]
enum Usage {
    /// It is sent to these origins, or used there to sign or to authenticate.
    Sent(Vec<Origin>),
    /// It is compared with what clients send.
    Compared,
    /// It is public, such as the certificates of authorities.
    Public,
}

/// The modification times of the files of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretVersion([Option<SystemTime>; 2]);

impl Secrets {
    /// Takes the secrets from a folder.
    #[must_use]
    pub const fn at(folder: PathBuf) -> Self {
        Self {
            folder: Some(folder),
        }
    }

    /// Returns a secret that is sent to these origins, each of which its `.hosts` file has to list.
    #[must_use]
    pub fn sent_to(&self, name: &SecretName, origins: Vec<Origin>) -> SecretFile {
        self.named(name, Usage::Sent(origins))
    }

    /// Returns a secret that clients send to this process, such as the password of an account. One that may be sent
    /// elsewhere is refused: who applies resources could find it out by trying.
    #[must_use]
    pub fn for_comparison(&self, name: &SecretName) -> SecretFile {
        self.named(name, Usage::Compared)
    }

    /// Returns a file that is not secret, such as the certificates of authorities.
    #[must_use]
    pub fn public_file(&self, name: &SecretName) -> SecretFile {
        self.named(name, Usage::Public)
    }

    fn named(&self, name: &SecretName, usage: Usage) -> SecretFile {
        SecretFile(Source::Named {
            secrets: self.clone(),
            name: name.clone(),
            usage,
        })
    }

    /// Returns the folder with its links resolved; the folder of the installation's own keys is refused.
    fn folder(&self) -> anyhow::Result<PathBuf> {
        let folder = self
            .folder
            .as_deref()
            .context("the setting `secrets.dir` names no folder")?;
        let folder = folder.canonicalize().with_context(|| {
            let shown = folder.display();
            format!("the folder `{shown}` of `secrets.dir` cannot be opened")
        })?;
        let holds_keys = |folder: &Path| folder.join(SIGNING_KEY).exists();
        let is_below_keys = ["accounts", "nats"]
            .iter()
            .any(|name| folder.ends_with(name))
            && folder.parent().is_some_and(holds_keys);
        anyhow::ensure!(
            !holds_keys(&folder) && !is_below_keys,
            "the folder `{}` of `secrets.dir` holds the keys of this installation; name another",
            folder.display()
        );
        Ok(folder)
    }
}

impl SecretFile {
    /// Returns a file by its path, as settings and arguments name it, never resources.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(Source::Path(path.to_owned()))
    }

    /// Reads the secret as text, without the white space around it. Errors never show its content.
    pub fn text(&self) -> anyhow::Result<SecretString> {
        let Source::Named { .. } = &self.0 else {
            return self.path().map_or_else(
                || anyhow::bail!("no file is configured"),
                |path| secret_file(&path),
            );
        };
        let bytes = self.bytes()?;
        let text = std::str::from_utf8(bytes.expose_secret())
            .ok()
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .with_context(|| format!("{self} is empty or not UTF-8"))?;
        Ok(text.to_owned().into())
    }

    /// Reads the bytes of the secret. Errors never show them.
    pub fn bytes(&self) -> anyhow::Result<SecretSlice<u8>> {
        let bytes = match &self.0 {
            Source::Path(path) => {
                fs::read(path).with_context(|| format!("failed to read {self}"))?
            }
            Source::Named {
                secrets,
                name,
                usage,
            } => secrets
                .folder()
                .and_then(|folder| usage.read(&folder, name))
                .with_context(|| format!("{self} cannot be used"))?,
        };
        Ok(bytes.into())
    }

    /// Returns the version of the secret, which changes with its content and its list of hosts.
    #[must_use]
    pub fn version(&self) -> SecretVersion {
        let changed = |path: PathBuf| fs::metadata(path).and_then(|about| about.modified()).ok();
        let Some(path) = self.path() else {
            return SecretVersion([None; 2]);
        };
        let hosts = match &self.0 {
            Source::Path(_) => None,
            Source::Named { name, .. } => changed(path.with_file_name(format!("{name}{HOSTS}"))),
        };
        SecretVersion([changed(path), hosts])
    }

    fn path(&self) -> Option<PathBuf> {
        match &self.0 {
            Source::Path(path) => Some(path.clone()),
            Source::Named { secrets, name, .. } => {
                Some(secrets.folder.as_ref()?.join(name.as_str()))
            }
        }
    }
}

impl fmt::Display for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Path(path) => write!(f, "`{}`", path.display()),
            Source::Named { name, .. } => write!(f, "secret `{name}`"),
        }
    }
}

impl Usage {
    /// Reads a secret if this use is allowed. Another use is refused before the file is opened, so that the error does
    /// not reveal whether the secret exists.
    fn read(&self, folder: &Path, name: &SecretName) -> anyhow::Result<Vec<u8>> {
        let shown = folder.display();
        match self {
            Self::Sent(origins) => {
                anyhow::ensure!(
                    !origins.is_empty(),
                    "no host is known to which it would be sent"
                );
                let allowed = read_hosts(folder, name)?.unwrap_or_default();
                for origin in origins {
                    anyhow::ensure!(
                        allowed.contains(origin),
                        "it may not be sent to `{origin}`; to allow that, add the line `{origin}` to the file `{name}{HOSTS}` in the folder `{shown}` of `secrets.dir`"
                    );
                }
            }
            Self::Compared => anyhow::ensure!(
                read_hosts(folder, name)?.is_none(),
                "it may be sent to the hosts in `{name}{HOSTS}`, so it cannot be an account's password too; give the account a secret of its own"
            ),
            Self::Public => {}
        }
        read_file(folder, name.as_str())?.with_context(|| {
            format!("there is no file `{name}` in the folder `{shown}` of `secrets.dir`")
        })
    }
}

/// Returns the origins to which a secret may be sent; nothing if it has no `.hosts` file.
fn read_hosts(folder: &Path, name: &SecretName) -> anyhow::Result<Option<Vec<Origin>>> {
    let file = format!("{name}{HOSTS}");
    let Some(bytes) = read_file(folder, &file)? else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes).with_context(|| format!("`{file}` is not UTF-8"))?;
    let mut origins = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let origin = line.parse().map_err(|_| {
            anyhow::anyhow!(
                "line {number} of `{file}` is not a host; write one a line, as in `registry.example:5000`"
            )
        })?;
        origins.push(origin);
    }
    Ok(Some(origins))
}

/// Reads a file of the folder, if it exists.
///
/// Links are followed within the folder only: Kubernetes mounts a secret as a link to `..data/NAME`.
fn read_file(folder: &Path, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let path = match folder.join(name).canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("`{name}` cannot be opened")),
    };
    anyhow::ensure!(
        path.starts_with(folder),
        "`{name}` is a link that leads out of the folder of `secrets.dir`"
    );
    // Opening a named pipe would block until a process writes to it.
    let is_regular = fs::metadata(&path).is_ok_and(|about| about.is_file());
    anyhow::ensure!(is_regular, "`{name}` is not a regular file");
    let mut bytes = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
        .with_context(|| format!("`{name}` cannot be read"))?;
    anyhow::ensure!(
        bytes.len() as u64 <= MAX_BYTES,
        "`{name}` is larger than 64 KiB"
    );
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
