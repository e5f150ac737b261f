//! The folder of secrets that resources name, and which secret may be sent where.
//!
//! Whoever may apply resources chooses names, hosts and proxies, but cannot write into this folder. So what a secret may
//! be used for is written here and nowhere else: a secret goes only to the hosts in the file `NAME.hosts` beside it, and
//! one without that file is sent to nobody.

use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde::Deserialize;
use sluice_domain::{Origin, SecretName};

use crate::settings::{given, secret_file};

/// The largest secret, and the largest list of hosts, in bytes.
const MAX_BYTES: u64 = 64 << 10;
/// What is added to the name of a secret for the file that lists the hosts that it may be sent to.
const HOSTS: &str = ".hosts";
/// A file that only the folder of `sluice keys` has.
const SIGNING_KEY: &str = "signing-key.pem";

/// Where the secrets are that resources name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSettings {
    /// The folder, with one file for each secret.
    #[serde(default, deserialize_with = "given")]
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

/// The folder of secrets; nothing is read before a secret is used.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    folder: Option<PathBuf>,
}

/// A secret: a file that a person named in settings or arguments, or one of the folder that a resource names.
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

/// What a secret of the folder is used for.
#[derive(Debug, Clone)]
enum Usage {
    /// It is sent to these, or shown or used to sign there.
    Sent(Vec<Origin>),
    /// It is compared with what others send.
    Compared,
    /// It is no secret: certificates of authorities.
    Public,
}

/// When the files of a secret changed last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp([Option<SystemTime>; 2]);

impl Secrets {
    /// Takes the secrets from a folder.
    #[must_use]
    pub const fn at(folder: PathBuf) -> Self {
        Self {
            folder: Some(folder),
        }
    }

    /// Names a secret that is sent to these origins, each of which its `.hosts` file has to list.
    #[must_use]
    pub fn sent(&self, name: &SecretName, origins: Vec<Origin>) -> SecretFile {
        self.named(name, Usage::Sent(origins))
    }

    /// Names a secret that others send here, as an account's password. One that may be sent elsewhere is refused, or
    /// whoever applies resources could find it out by trying.
    #[must_use]
    pub fn compared(&self, name: &SecretName) -> SecretFile {
        self.named(name, Usage::Compared)
    }

    /// Names a file that is not secret, as the certificates of authorities.
    #[must_use]
    pub fn public(&self, name: &SecretName) -> SecretFile {
        self.named(name, Usage::Public)
    }

    fn named(&self, name: &SecretName, usage: Usage) -> SecretFile {
        SecretFile(Source::Named {
            secrets: self.clone(),
            name: name.clone(),
            usage,
        })
    }

    /// Returns the folder with its links resolved; one that holds keys of the installation is refused.
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
    /// Names a file by its path, as settings and arguments do, never resources.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(Source::Path(path.to_owned()))
    }

    /// Reads it as text, without the white space around it.
    ///
    /// # Errors
    /// A secret that is not there, may not be used for this, or cannot be read; never with its content.
    pub fn text(&self) -> anyhow::Result<SecretString> {
        let Source::Named { .. } = &self.0 else {
            return self.path().map_or_else(
                || anyhow::bail!("no file is named"),
                |path| secret_file(&path),
            );
        };
        let bytes = self.bytes()?;
        let text = std::str::from_utf8(bytes.expose_secret())
            .ok()
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .with_context(|| format!("{self} is empty or no text"))?;
        Ok(text.to_owned().into())
    }

    /// Reads its bytes as they are.
    ///
    /// # Errors
    /// As [`SecretFile::text`].
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

    /// Returns when it, or the hosts that it may be sent to, changed last.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        let changed = |path: PathBuf| fs::metadata(path).and_then(|about| about.modified()).ok();
        let Some(path) = self.path() else {
            return Stamp([None; 2]);
        };
        let hosts = match &self.0 {
            Source::Path(_) => None,
            Source::Named { name, .. } => changed(path.with_file_name(format!("{name}{HOSTS}"))),
        };
        Stamp([changed(path), hosts])
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
    /// Reads a secret if it may be used for this. What may not is refused before it is looked for, so that the answer is
    /// the same whether it is there or not.
    fn read(&self, folder: &Path, name: &SecretName) -> anyhow::Result<Vec<u8>> {
        let shown = folder.display();
        match self {
            Self::Sent(origins) => {
                anyhow::ensure!(
                    !origins.is_empty(),
                    "it is not known where it would be sent"
                );
                let allowed = hosts(folder, name)?.unwrap_or_default();
                for origin in origins {
                    anyhow::ensure!(
                        allowed.contains(origin),
                        "it may not be sent to `{origin}`; to allow that, add the line `{origin}` to the file `{name}{HOSTS}` in the folder `{shown}` of `secrets.dir`"
                    );
                }
            }
            Self::Compared => anyhow::ensure!(
                hosts(folder, name)?.is_none(),
                "it may be sent to the hosts in `{name}{HOSTS}`, so it cannot be an account's password too; give the account a secret of its own"
            ),
            Self::Public => {}
        }
        read(folder, name.as_str())?.with_context(|| {
            format!("there is no file `{name}` in the folder `{shown}` of `secrets.dir`")
        })
    }
}

/// Returns the origins that a secret may be sent to; nothing if no file says so.
fn hosts(folder: &Path, name: &SecretName) -> anyhow::Result<Option<Vec<Origin>>> {
    let file = format!("{name}{HOSTS}");
    let Some(bytes) = read(folder, &file)? else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes).with_context(|| format!("`{file}` is no text"))?;
    let mut origins = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let origin = line.parse().map_err(|_| {
            anyhow::anyhow!(
                "line {number} of `{file}` is no host; write one a line, as in `registry.example:5000`"
            )
        })?;
        origins.push(origin);
    }
    Ok(Some(origins))
}

/// Reads a file of the folder; nothing if there is none.
///
/// Links are followed within the folder only: Kubernetes mounts a secret as a link to `..data/NAME`.
fn read(folder: &Path, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let path = match folder.join(name).canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("`{name}` cannot be opened")),
    };
    anyhow::ensure!(
        path.starts_with(folder),
        "`{name}` is a link that leads out of the folder of `secrets.dir`"
    );
    // To open a named pipe would be to wait for its writer.
    let is_regular = fs::metadata(&path).is_ok_and(|about| about.is_file());
    anyhow::ensure!(is_regular, "`{name}` is no regular file");
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
