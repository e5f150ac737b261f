//! The kinds of resources, and one table from which follows what differs between them by their type alone.
//!
//! A new kind is a file beside the others, its lines here, an example, and its place in the snapshot of `sluice-state`.

mod account;
mod mirror;
mod promotion_policy;
mod pruning_policy;
mod registry;
mod repository_settings;
mod webhook;

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;

use crate::name::{InvalidName, ResourceName};

pub use account::Account;
pub use mirror::{Mirror, OnDelete, TagSelection};
pub use promotion_policy::{CoverageRule, PromotionPolicy, Recall, Require, Rule, UnknownFindings};
pub use pruning_policy::PruningPolicy;
pub use registry::Registry;
pub use repository_settings::{
    EffectiveSettings, Keep, KeepOrder, RepositorySettings, ScanMode, Unauthorised, Visibility,
    settings_for,
};
pub use webhook::{EVENTS, Format, Webhook};

/// Kinds that are designed but not built: they are refused by name rather than as a typing error.
const NOT_SUPPORTED_YET: [&str; 4] = ["Scanner", "Exception", "Organization", "Team"];

/// Lists names as a sentence does: `A, B and C`.
macro_rules! list {
    ($first:ident $last:ident) => { concat!(stringify!($first), " and ", stringify!($last)) };
    ($first:ident $($rest:ident)+) => { concat!(stringify!($first), ", ", list!($($rest)+)) };
}

/// Declares the kinds from their documentation, name and type.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident($type:ty),)+) => {
        /// The kinds of resources.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $kind,)+
        }

        impl Kind {
            /// Every kind, in the order in which listings show them.
            pub const ALL: [Self; [$(Self::$kind),+].len()] = [$(Self::$kind),+];

            const UNKNOWN: &str = concat!("this version knows ", list!($($kind)+));
            const PLANNED: &str =
                concat!("it is not supported yet; this version knows ", list!($($kind)+));

            /// Returns the name as written after `kind:`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind),)+
                }
            }

            /// Returns the JSON Schema of its keys, without `kind`.
            pub(super) fn schema(self, generator: &mut SchemaGenerator) -> Schema {
                match self {
                    $(Self::$kind => <$type as JsonSchema>::json_schema(generator),)+
                }
            }
        }

        /// One declarative resource.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Resource {
            $($(#[$doc])* $kind($type),)+
        }

        impl Resource {
            /// Returns its kind.
            #[must_use]
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind,)+
                }
            }

            /// Returns its name, unique within the kind.
            #[must_use]
            pub const fn name(&self) -> &ResourceName {
                match self {
                    $(Self::$kind(resource) => &resource.name,)+
                }
            }

            /// Reads a resource of this kind.
            pub(super) fn read<B: ReadBody>(kind: Kind, body: &B) -> Result<Self, B::Error> {
                Ok(match kind {
                    $(Kind::$kind => Self::$kind(body.read()?),)+
                })
            }

            /// Reads the stored form again.
            ///
            /// # Errors
            /// Text that is not the JSON of this kind, as a newer version may have written it.
            pub fn from_json(kind: Kind, json: &str) -> Result<Self, serde_json::Error> {
                Self::read(kind, &StoredBody(json))
            }

            /// Returns the stored form.
            ///
            /// # Errors
            /// Never for the types of this crate; serde's signature has it.
            pub fn to_json(&self) -> Result<String, serde_json::Error> {
                match self {
                    $(Self::$kind(resource) => serde_json::to_string(resource),)+
                }
            }

            /// Returns the faults of the values taken alone: the key, and what to write instead.
            pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
                match self {
                    $(Self::$kind(resource) => resource.faults(),)+
                }
            }
        }
    };
}

kinds! {
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
    /// A person's or a build system's registry account.
    Account(Account),
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
                Self::PLANNED
            } else {
                Self::UNKNOWN
            };
            InvalidName::new("kind", text, reason)
        })
    }
}

/// The keys of a resource in one of its forms, to be read as the type of its kind.
pub(super) trait ReadBody {
    /// What is wrong with the keys.
    type Error;

    fn read<T: DeserializeOwned>(&self) -> Result<T, Self::Error>;
}

/// The stored form, in JSON.
struct StoredBody<'a>(&'a str);

impl ReadBody for StoredBody<'_> {
    type Error = serde_json::Error;

    fn read<T: DeserializeOwned>(&self) -> Result<T, Self::Error> {
        serde_json::from_str(self.0)
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
