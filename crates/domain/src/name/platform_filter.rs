//! The platform filter of a mirror.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::name::platform::Platform;

/// Which platforms of an image index are mirrored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PlatformFilter {
    /// All of them, so that the index keeps its digest.
    #[default]
    All,
    /// Only these, at least one; in whichever order they were written.
    Only(BTreeSet<Platform>),
}

impl PlatformFilter {
    /// Returns whether every platform passes.
    #[must_use]
    pub const fn is_all(&self) -> bool {
        matches!(self, Self::All)
    }

    /// Returns whether a platform passes the filter.
    #[must_use]
    pub fn want(&self, platform: &Platform) -> bool {
        let Self::Only(wanted) = self else {
            return true;
        };
        wanted.iter().any(|wanted| platform.satisfies(wanted))
    }

    /// Returns the form that entries keep: empty for all.
    #[must_use]
    pub fn stored(&self) -> String {
        match self {
            Self::All => String::new(),
            Self::Only(_) => self.to_string(),
        }
    }
}

impl fmt::Display for PlatformFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Only(wanted) => {
                let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
                f.write_str(&wanted.join(","))
            }
        }
    }
}

impl Serialize for PlatformFilter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Only(wanted) => wanted.serialize(serializer),
        }
    }
}

impl JsonSchema for PlatformFilter {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Platforms".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{ "const": "all" }, generator.subschema_for::<Vec<Platform>>()]
        })
    }
}

impl<'de> Deserialize<'de> for PlatformFilter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlatformFilterVisitor)
    }
}

struct PlatformFilterVisitor;

impl<'de> Visitor<'de> for PlatformFilterVisitor {
    type Value = PlatformFilter;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`all`, or a list of platforms as in `[linux/amd64, linux/arm64/v8]`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<PlatformFilter, E> {
        if text == "all" {
            return Ok(PlatformFilter::All);
        }
        Err(E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<PlatformFilter, A::Error> {
        let mut wanted = BTreeSet::new();
        while let Some(platform) = list.next_element()? {
            wanted.insert(platform);
        }
        if wanted.is_empty() {
            return Err(A::Error::invalid_length(0, &self));
        }
        Ok(PlatformFilter::Only(wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platforms(json: &str) -> PlatformFilter {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_list_is_kept_in_one_order_and_survives_being_stored() {
        let list = platforms(r#"["linux/arm64/v8","linux/amd64","linux/amd64"]"#);
        assert_eq!(list.to_string(), "linux/amd64,linux/arm64/v8");
        assert_eq!(list.stored(), list.to_string());
        let stored = serde_json::to_string(&list).unwrap();
        assert_eq!(platforms(&stored), list);
        assert_eq!(platforms(r#""all""#), PlatformFilter::All);
        assert_eq!(PlatformFilter::All.stored(), "");
        for bad in ["[]", r#""linux/amd64""#, r#"["linux"]"#, "7"] {
            assert!(
                serde_json::from_str::<PlatformFilter>(bad).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_variant_is_wanted_where_it_is_named() {
        let list = platforms(r#"["linux/arm64/v8","linux/arm/v7","linux/amd64"]"#);
        for (platform, wanted) in [
            ("linux/arm64", true),
            ("linux/arm64/v8", true),
            ("linux/arm64/v9", false),
            ("linux/arm/v7", true),
            ("linux/arm/v6", false),
            ("linux/arm", false),
            ("linux/amd64/v3", true),
            ("windows/amd64", false),
        ] {
            assert_eq!(list.want(&platform.parse().unwrap()), wanted, "{platform}");
            assert!(PlatformFilter::All.want(&platform.parse().unwrap()));
        }
    }
}
