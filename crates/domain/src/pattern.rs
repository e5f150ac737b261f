//! Glob patterns over repository and tag names.

use std::fmt;
use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

use crate::name::InvalidName;

/// A glob: `*` stays within one path component, `**` crosses them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    text: String,
    matcher: GlobMatcher,
}

impl Pattern {
    /// Says whether the name matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.matcher.is_match(name)
    }

    /// Returns the pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns how many characters stand before the first wildcard; the longer, the more specific.
    #[must_use]
    pub fn literal_prefix(&self) -> usize {
        self.text.find(['*', '?', '[', '{']).unwrap_or(usize::MAX)
    }
}

impl FromStr for Pattern {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || {
            InvalidName::new(
                "pattern",
                text,
                "expected a glob of at most 256 characters, as in `hub/*` or `*-rc*`",
            )
        };
        if text.is_empty() || text.len() > 256 {
            return Err(invalid());
        }
        let glob = GlobBuilder::new(text)
            .literal_separator(true)
            .build()
            .map_err(|_| invalid())?;
        Ok(Self {
            text: text.to_owned(),
            matcher: glob.compile_matcher(),
        })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl TryFrom<String> for Pattern {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.text
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_star_stays_within_a_component() {
        let pattern: Pattern = "hub/*".parse().unwrap();
        assert!(pattern.matches("hub/alpine"));
        assert!(!pattern.matches("hub/team/app"));
        assert!(!pattern.matches("official/alpine"));
        assert!("hub/**".parse::<Pattern>().unwrap().matches("hub/team/app"));
        assert!("[".parse::<Pattern>().is_err());
    }
}
