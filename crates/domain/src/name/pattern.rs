//! Glob patterns over repository and tag names.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use globset::{GlobBuilder, GlobMatcher};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::InvalidName;

/// How many compiled patterns a thread keeps. Resources are read again and again, and compiling is what takes the time.
const KEPT: usize = 256;

thread_local! {
    static COMPILED: RefCell<HashMap<String, GlobMatcher>> = RefCell::default();
}

/// A glob: `*` stays within one path component, `**` crosses them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(title = "pattern")]
pub struct Pattern {
    text: String,
    /// Nothing where the text can only match itself: a compiled glob takes kilobytes, and names are listed by the thousand.
    matcher: Option<GlobMatcher>,
}

impl Pattern {
    /// Returns whether the name matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match &self.matcher {
            Some(matcher) => matcher.is_match(name),
            None => self.text == name,
        }
    }

    /// Returns the pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns a key that orders patterns: the greater, the more specific.
    ///
    /// First by what stands before the first wildcard, then by whether wildcards stay within a component.
    pub(crate) fn specificity(&self) -> (usize, bool, usize, &str) {
        let wildcard = |c: char| matches!(c, '*' | '?' | '[' | '{');
        let prefix = self.text.find(wildcard).unwrap_or(usize::MAX);
        let literals = self.text.chars().filter(|c| !wildcard(*c)).count();
        (prefix, !self.text.contains("**"), literals, &self.text)
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
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        let matcher = if text.chars().all(plain) {
            None
        } else {
            Some(compiled(text).ok_or_else(invalid)?)
        };
        Ok(Self {
            text: text.to_owned(),
            matcher,
        })
    }
}

/// Returns the matcher of a glob, if it is one.
fn compiled(text: &str) -> Option<GlobMatcher> {
    if let Some(known) = COMPILED.with_borrow(|compiled| compiled.get(text).cloned()) {
        return Some(known);
    }
    let glob = GlobBuilder::new(text).literal_separator(true).build();
    let matcher = glob.ok()?.compile_matcher();
    COMPILED.with_borrow_mut(|compiled| {
        if compiled.len() >= KEPT {
            compiled.clear();
        }
        compiled.insert(text.to_owned(), matcher.clone());
    });
    Some(matcher)
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_single_star_stays_within_a_component() {
        for (pattern, name, matches) in [
            ("hub/*", "hub/alpine", true),
            ("hub/*", "hub/team/app", false),
            ("hub/*", "official/alpine", false),
            ("hub/*", "hub", false),
            ("hub/**", "hub/team/app", true),
            ("**", "hub/team/app", true),
            ("**/app", "hub/team/app", true),
            ("hub/{a,b}", "hub/b", true),
            ("*-rc*", "1.0-rc1", true),
            ("*-rc*", "1.0", false),
            ("edge", "edge-1", false),
            ("team/app_1.0", "team/app_1.0", true),
            ("team/app_1.0", "team/app_1x0", false),
            ("a\\*", "a*", true),
            ("tag.*", "tag.pushed", true),
        ] {
            let read: Pattern = pattern.parse().unwrap();
            assert_eq!(read.matches(name), matches, "{pattern} {name}");
            assert_eq!(read.to_string(), pattern);
        }
        for bad in ["", "[", "{a", "a\\", &"a".repeat(257)] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".*", name in ".*") {
            if let Ok(pattern) = text.parse::<Pattern>() {
                prop_assert_eq!(pattern.to_string(), text);
                std::hint::black_box(pattern.matches(&name));
            }
        }

        #[test]
        fn a_text_without_wildcards_matches_only_itself(text in "[a-z0-9./_-]{1,40}", other in "[a-z0-9./_-]{1,40}") {
            let pattern: Pattern = text.parse().unwrap();
            prop_assert!(pattern.matches(&text));
            prop_assert_eq!(pattern.matches(&other), text == other);
        }
    }
}
