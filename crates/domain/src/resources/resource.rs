//! One declarative resource of any kind, and its stored form.

use std::fmt;
use std::str::FromStr;

use super::account::Account;
use super::mirror::Mirror;
use super::promotion_policy::PromotionPolicy;
use super::pruning_policy::PruningPolicy;
use super::registry::Registry;
use super::repository_settings::RepositorySettings;
use super::webhook::Webhook;
use crate::name::{InvalidName, ResourceName};

/// Kinds that are designed but not built: they are refused by name rather than as a typing error.
const NOT_SUPPORTED_YET: [&str; 4] = ["Scanner", "Exception", "Organization", "Team"];

/// The kinds of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A remote registry with its credential.
    Registry,
    /// A repository to mirror.
    Mirror,
    /// Settings of local repositories.
    Repository,
    /// What may be promoted where.
    PromotionPolicy,
    /// What is deleted when.
    PruningPolicy,
    /// A receiver of events.
    Webhook,
    /// A person's or a build system's registry account.
    Account,
}

impl Kind {
    /// Every kind, in the order in which listings show them.
    pub const ALL: [Self; 7] = [
        Self::Registry,
        Self::Mirror,
        Self::Repository,
        Self::PromotionPolicy,
        Self::PruningPolicy,
        Self::Webhook,
        Self::Account,
    ];

    /// Returns the name as written after `kind:`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "Registry",
            Self::Mirror => "Mirror",
            Self::Repository => "Repository",
            Self::PromotionPolicy => "PromotionPolicy",
            Self::PruningPolicy => "PruningPolicy",
            Self::Webhook => "Webhook",
            Self::Account => "Account",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let matches = |kind: &&Self| {
            let name = kind.as_str().to_ascii_lowercase();
            let plural = name
                .strip_suffix('y')
                .map_or_else(|| format!("{name}s"), |stem| format!("{stem}ies"));
            let text = text.to_ascii_lowercase();
            text == name || text == plural
        };
        let planned = |name: &&str| name.eq_ignore_ascii_case(text);
        Self::ALL.iter().find(matches).copied().ok_or_else(|| {
            let reason = if NOT_SUPPORTED_YET.iter().any(planned) {
                "it is not supported yet; this version knows Registry, Mirror, Repository, PromotionPolicy, PruningPolicy, Webhook and Account"
            } else {
                "this version knows Registry, Mirror, Repository, PromotionPolicy, PruningPolicy, Webhook and Account"
            };
            InvalidName::new("kind", text, reason)
        })
    }
}

/// One declarative resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// A remote registry with its credential.
    Registry(Registry),
    /// A repository to mirror.
    Mirror(Mirror),
    /// Settings of local repositories.
    Repository(RepositorySettings),
    /// What may be promoted where.
    PromotionPolicy(PromotionPolicy),
    /// What is deleted when.
    PruningPolicy(PruningPolicy),
    /// A receiver of events.
    Webhook(Webhook),
    /// A registry account.
    Account(Account),
}

impl Resource {
    /// Returns its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Registry(_) => Kind::Registry,
            Self::Mirror(_) => Kind::Mirror,
            Self::Repository(_) => Kind::Repository,
            Self::PromotionPolicy(_) => Kind::PromotionPolicy,
            Self::PruningPolicy(_) => Kind::PruningPolicy,
            Self::Webhook(_) => Kind::Webhook,
            Self::Account(_) => Kind::Account,
        }
    }

    /// Returns its name, unique within the kind.
    #[must_use]
    pub const fn name(&self) -> &ResourceName {
        match self {
            Self::Registry(resource) => &resource.name,
            Self::Mirror(resource) => &resource.name,
            Self::Repository(resource) => &resource.name,
            Self::PromotionPolicy(resource) => &resource.name,
            Self::PruningPolicy(resource) => &resource.name,
            Self::Webhook(resource) => &resource.name,
            Self::Account(resource) => &resource.name,
        }
    }

    /// Reads the stored form again.
    ///
    /// # Errors
    /// Text that is not the JSON of this kind, as a newer version may have written it.
    pub fn from_json(kind: Kind, json: &str) -> Result<Self, serde_json::Error> {
        Ok(match kind {
            Kind::Registry => Self::Registry(serde_json::from_str(json)?),
            Kind::Mirror => Self::Mirror(serde_json::from_str(json)?),
            Kind::Repository => Self::Repository(serde_json::from_str(json)?),
            Kind::PromotionPolicy => Self::PromotionPolicy(serde_json::from_str(json)?),
            Kind::PruningPolicy => Self::PruningPolicy(serde_json::from_str(json)?),
            Kind::Webhook => Self::Webhook(serde_json::from_str(json)?),
            Kind::Account => Self::Account(serde_json::from_str(json)?),
        })
    }

    /// Returns the stored form.
    ///
    /// # Errors
    /// Never for the types of this crate; serde's signature has it.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        match self {
            Self::Registry(resource) => serde_json::to_string(resource),
            Self::Mirror(resource) => serde_json::to_string(resource),
            Self::Repository(resource) => serde_json::to_string(resource),
            Self::PromotionPolicy(resource) => serde_json::to_string(resource),
            Self::PruningPolicy(resource) => serde_json::to_string(resource),
            Self::Webhook(resource) => serde_json::to_string(resource),
            Self::Account(resource) => serde_json::to_string(resource),
        }
    }

    /// Returns the faults of the values taken alone: the key, and what to write instead.
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Registry(resource) => resource.faults(),
            Self::Mirror(resource) => resource.faults(),
            Self::Repository(resource) => resource.faults(),
            Self::PromotionPolicy(resource) => resource.faults(),
            Self::PruningPolicy(resource) => resource.faults(),
            Self::Webhook(resource) => resource.faults(),
            Self::Account(resource) => resource.faults(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::resources::yaml::parse_documents;
    use crate::resources::yaml::schema::EXAMPLES;

    /// The stored form of an example of each kind; a writer of the bucket could store any text instead.
    static STORED: LazyLock<Vec<(Kind, String)>> = LazyLock::new(|| {
        let written = parse_documents(EXAMPLES).unwrap().into_iter();
        written
            .map(|document| {
                let json = document.resource.to_json().unwrap();
                (document.resource.kind(), json)
            })
            .collect()
    });

    #[test]
    fn kinds_are_read_in_any_case_and_in_the_plural() {
        for (text, kind) in [
            ("mirror", Kind::Mirror),
            ("Mirrors", Kind::Mirror),
            ("repositories", Kind::Repository),
            ("promotionpolicies", Kind::PromotionPolicy),
        ] {
            assert_eq!(text.parse::<Kind>().unwrap(), kind);
        }
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse::<Kind>().unwrap(), kind);
        }
    }

    #[test]
    fn kinds_that_nothing_carries_out_are_refused_by_name() {
        for kind in NOT_SUPPORTED_YET {
            let message = kind.parse::<Kind>().unwrap_err().to_string();
            assert!(message.contains("not supported yet"), "{message}");
        }
        let message = "Miror".parse::<Kind>().unwrap_err().to_string();
        assert!(!message.contains("not supported yet"), "{message}");
    }

    proptest! {
        #[test]
        fn what_is_read_of_a_changed_resource_is_stored_as_it_was_read(which in any::<prop::sample::Index>(), place in any::<prop::sample::Index>(), length in 0..9_usize, junk in "([a-z0-9*/:.{}\\[\\]\",-]|\\PC){0,6}") {
            let (kind, json) = which.get(&STORED);
            prop_assert!(Resource::from_json(*kind, json).is_ok());
            let characters: Vec<char> = json.chars().collect();
            let from = place.index(characters.len());
            let to = (from + length).min(characters.len());
            let changed: String = characters[..from].iter().copied().chain(junk.chars()).chain(characters[to..].iter().copied()).collect();
            if let Ok(read) = Resource::from_json(*kind, &changed) {
                prop_assert_eq!(Resource::from_json(*kind, &read.to_json().unwrap()).unwrap(), read);
            }
        }
    }
}
