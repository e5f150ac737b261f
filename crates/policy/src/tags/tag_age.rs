//! Which of two tags is the newer: by version, by date, or by name.

use std::cmp::Ordering;
use std::fmt;

use sluice_domain::Tag;

use crate::tags::natural::compare_natural;
use crate::tags::tag_date::TagDate;
use crate::tags::version::TagVersion;

/// What a tag's name says of its age.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagAge {
    /// Neither version nor date, as `latest`; the oldest, because nothing says otherwise.
    Unknown,
    /// A date.
    Date(TagDate),
    /// A version; versions come before dates, since a repository that has both dates its builds.
    Version(TagVersion),
}

impl TagAge {
    /// Reads a tag.
    #[must_use]
    pub fn of(tag: &Tag) -> Self {
        let text = tag.as_str();
        if let Some(version) = TagVersion::parse(text) {
            return Self::Version(version);
        }
        TagDate::find(text).map_or(Self::Unknown, Self::Date)
    }

    /// Returns the version, if it is one.
    #[must_use]
    pub const fn version(&self) -> Option<&TagVersion> {
        match self {
            Self::Version(version) => Some(version),
            Self::Unknown | Self::Date(_) => None,
        }
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Date(_) => 1,
            Self::Version(_) => 2,
        }
    }
}

impl fmt::Display for TagAge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("no version"),
            Self::Date(_) => f.write_str("a date"),
            Self::Version(version) if version.is_pre_release() => f.write_str("a pre-release"),
            Self::Version(version) if version.is_plain() => f.write_str("a release"),
            Self::Version(version) if version.variant().is_empty() => {
                f.write_str("a build of a release")
            }
            Self::Version(version) => write!(f, "variant `{}` of a release", version.variant()),
        }
    }
}

/// Orders tags from the newest to the oldest; tags that differ are never equal.
#[must_use]
pub fn newest_first((a, a_tag): (&TagAge, &Tag), (b, b_tag): (&TagAge, &Tag)) -> Ordering {
    let ages = match (a, b) {
        (TagAge::Version(a), TagAge::Version(b)) => b.compare_exactly(a),
        (TagAge::Date(a), TagAge::Date(b)) => b.compare(a),
        _ => b.rank().cmp(&a.rank()),
    };
    ages.then_with(|| compare_natural(b_tag.as_str(), a_tag.as_str()))
}
