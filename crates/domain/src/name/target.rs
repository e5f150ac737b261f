//! Where an image is promoted to: a repository of the internal registry, or one of a remote registry.

use std::fmt;

use crate::name::{InvalidName, RegistryHost, Repository};

/// A repository here, or at a remote registry.
///
/// It is displayed as in image references (`registry.example/team/app`). That form cannot be told from a local repository
/// whose organisation has a dot, so the stored form is another (`//registry.example/team/app`), which is no valid name of a
/// local repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The remote registry; none for the internal one.
    pub registry: Option<RegistryHost>,
    /// The repository in it.
    pub repository: Repository,
}

impl Target {
    /// Returns the stored form.
    #[must_use]
    pub fn stored(&self) -> String {
        match &self.registry {
            Some(registry) => format!("//{registry}/{}", self.repository),
            None => self.repository.to_string(),
        }
    }

    /// Parses the stored form.
    ///
    /// # Errors
    /// A text that is none.
    pub fn from_stored(text: &str) -> Result<Self, InvalidName> {
        let Some(remote) = text.strip_prefix("//") else {
            return text.parse().map(|repository: Repository| repository.into());
        };
        let (registry, repository) = remote.split_once('/').ok_or_else(|| {
            InvalidName::new("target", text, "it has a registry and no repository")
        })?;
        Ok(Self {
            registry: Some(registry.parse()?),
            repository: repository.parse()?,
        })
    }

    /// Returns the repository if it is one of the internal registry.
    #[must_use]
    pub const fn local(&self) -> Option<&Repository> {
        match self.registry {
            None => Some(&self.repository),
            Some(_) => None,
        }
    }
}

impl From<Repository> for Target {
    fn from(repository: Repository) -> Self {
        Self {
            registry: None,
            repository,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.registry {
            Some(registry) => write!(f, "{registry}/{}", self.repository),
            None => self.repository.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_reads_back_and_is_no_local_repository() {
        for (registry, repository, shown, stored) in [
            (None, "official/app", "official/app", "official/app"),
            (None, "a.b/app", "a.b/app", "a.b/app"),
            (Some("a.b"), "app", "a.b/app", "//a.b/app"),
            (
                Some("127.0.0.1:5000"),
                "team/app",
                "127.0.0.1:5000/team/app",
                "//127.0.0.1:5000/team/app",
            ),
        ] {
            let target = Target {
                registry: registry.map(|host| host.parse().unwrap()),
                repository: repository.parse().unwrap(),
            };
            assert_eq!(
                (target.to_string().as_str(), target.stored().as_str()),
                (shown, stored)
            );
            assert_eq!(Target::from_stored(stored).unwrap(), target);
            let is_local = stored.parse::<Repository>().is_ok();
            assert_eq!(is_local, target.local().is_some(), "{stored}");
        }
        for bad in ["", "//", "//a.b", "//a.b/", "///app", "a b", "/a.b/app"] {
            assert!(Target::from_stored(bad).is_err(), "{bad}");
        }
    }
}
