//! Regular expressions over tag names, for choices that a glob cannot express.

use std::fmt;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::InvalidName;

/// The longest expression, in characters.
const LONGEST: usize = 256;
/// The most memory of a compiled expression, in bytes.
const LARGEST: usize = 1 << 20;

/// A regular expression that a name must match as a whole.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(title = "regular expression")]
pub struct NameRegex {
    text: String,
    regex: Regex,
}

impl NameRegex {
    /// Returns whether the whole name matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.regex.is_match(name)
    }

    /// Returns the expression as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for NameRegex {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const REASON: &str = "expected a regular expression of at most 256 characters that the whole name matches, as in `v[0-9]+`; \
             look-around and back-references are not supported";
        let invalid = || InvalidName::new("regular expression", text, REASON);
        if text.is_empty() || text.chars().count() > LONGEST {
            return Err(invalid());
        }
        // Taken alone first: an unmatched `)` must not close the group around it.
        RegexBuilder::new(text)
            .size_limit(LARGEST)
            .build()
            .map_err(|_| invalid())?;
        let regex = RegexBuilder::new(&format!("^(?:{text})$"))
            .size_limit(LARGEST)
            .build()
            .map_err(|_| invalid())?;
        Ok(Self {
            text: text.to_owned(),
            regex,
        })
    }
}

impl PartialEq for NameRegex {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for NameRegex {}

impl TryFrom<String> for NameRegex {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<NameRegex> for String {
    fn from(regex: NameRegex) -> Self {
        regex.text
    }
}

impl fmt::Display for NameRegex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_whole_name_must_match() {
        for (text, name, matches) in [
            ("v[0-9]+", "v12", true),
            ("v[0-9]+", "v12-rc", false),
            ("v[0-9]+", "av1", false),
            ("a|b", "b", true),
            ("a|b", "ab", false),
            ("^1\\.13\\.[12]-alpine-perl$", "1.13.2-alpine-perl", true),
            (".*-slim", "3-slim", true),
        ] {
            let read: NameRegex = text.parse().unwrap();
            assert_eq!(read.matches(name), matches, "{text} {name}");
            assert_eq!(read.to_string(), text);
        }
        for bad in [
            "",
            "(",
            "a)|(b",
            "(?=a)",
            "a{1000}{1000}{1000}",
            &"a".repeat(257),
        ] {
            assert!(bad.parse::<NameRegex>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".*", name in ".*") {
            if let Ok(regex) = text.parse::<NameRegex>() {
                prop_assert_eq!(regex.to_string(), text);
                std::hint::black_box(regex.matches(&name));
            }
        }
    }
}
