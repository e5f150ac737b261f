//! Platforms of images (`linux/arm64/v8`), OCI image index specification 1.1.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::InvalidName;

/// An operating system and an architecture, with a variant where it matters.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(title = "platform")]
pub struct Platform {
    /// The operating system, as in `linux`.
    pub os: String,
    /// The architecture, as in `amd64`.
    pub architecture: String,
    /// The variant, as in `v8`.
    pub variant: Option<String>,
}

impl Platform {
    /// Returns whether this platform satisfies a wanted one; a wanted platform without variant takes any, and `arm64`
    /// without a variant is `v8`, as clients take it.
    #[must_use]
    pub fn satisfies(&self, wanted: &Self) -> bool {
        let usual = (self.architecture == "arm64").then_some("v8");
        self.os == wanted.os
            && self.architecture == wanted.architecture
            && (wanted.variant.is_none()
                || self.variant.as_deref().or(usual) == wanted.variant.as_deref())
    }
}

impl FromStr for Platform {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || {
            InvalidName::new(
                "platform",
                text,
                "expected `os/architecture[/variant]`, as in `linux/amd64`",
            )
        };
        let valid = |part: &&str| {
            !part.is_empty()
                && part.len() <= 32
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        };
        let mut parts = text.split('/');
        let os = parts.next().filter(valid).ok_or_else(invalid)?.to_owned();
        let architecture = parts.next().filter(valid).ok_or_else(invalid)?.to_owned();
        let variant = match parts.next() {
            Some(part) => Some(Some(part).filter(valid).ok_or_else(invalid)?.to_owned()),
            None => None,
        };
        if parts.next().is_some() {
            return Err(invalid());
        }
        Ok(Self {
            os,
            architecture,
            variant,
        })
    }
}

impl TryFrom<String> for Platform {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> Self {
        platform.to_string()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant
            .as_ref()
            .map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wanted_platform_without_variant_takes_any() {
        let arm: Platform = "linux/arm64/v8".parse().unwrap();
        assert!(arm.satisfies(&"linux/arm64".parse().unwrap()));
        assert!(!arm.satisfies(&"linux/arm64/v7".parse().unwrap()));
        let usual: Platform = "linux/arm64".parse().unwrap();
        assert!(usual.satisfies(&arm));
        assert!(!usual.satisfies(&"linux/arm64/v9".parse().unwrap()));
        assert!(!arm.satisfies(&"linux/amd64".parse().unwrap()));
        assert_eq!(arm.to_string(), "linux/arm64/v8");
        for bad in [
            "",
            "linux",
            "linux/",
            "a/b/c/d",
            "linux/a b",
            "linux/amd64/",
        ] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
