//! Versions as real Docker tags write them; `docs/TAGS.md` has the grammar with examples.

mod digits;
mod suffix;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;

use self::digits::{leading_digits, number};
use self::suffix::Suffix;
use crate::tags::natural::compare_natural;
use crate::tags::tag_date::TagDate;

/// From so many digits on a single number is a build or a commit, and no version.
const TOO_MANY_DIGITS: usize = 6;

/// A tag read as a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagVersion {
    numbers: [u64; 4],
    count: usize,
    suffix: Suffix,
}

impl TagVersion {
    /// Reads a tag; `None` for one that is no version, as `latest`, a date or a commit.
    #[must_use]
    pub fn parse(tag: &str) -> Option<Self> {
        let text = tag
            .strip_prefix(['v', 'V'])
            .unwrap_or(tag)
            .to_ascii_lowercase();
        if TagDate::begins(&text) {
            return None;
        }
        let (mut numbers, mut count, mut rest) = ([0; 4], 0, text.as_str());
        loop {
            let (digits, after) = leading_digits(rest);
            *numbers.get_mut(count)? = number(digits)?;
            count += 1;
            rest = after;
            match rest.strip_prefix('.') {
                Some(next) if next.starts_with(|c: char| c.is_ascii_digit()) => rest = next,
                _ => break,
            }
        }
        if count == 1 && text.len() - rest.len() >= TOO_MANY_DIGITS {
            return None;
        }
        // `8u392-b08` is what Java calls update 392 of 8, build 8.
        if let ([major, ..], 1, Some((update, after))) = (numbers, count, update(rest)) {
            (numbers, count) = ([major, 0, update, 0], 3);
            let suffix = Suffix::of_java_update(after)?;
            return Some(Self {
                numbers,
                count,
                suffix,
            });
        }
        let suffix = Suffix::parse(rest, count)?;
        Some(Self {
            numbers,
            count,
            suffix,
        })
    }

    /// Returns what follows the version, as `alpine3.20`.
    #[must_use]
    pub fn variant(&self) -> &str {
        &self.suffix.variant
    }

    /// Says whether it is a pre-release.
    #[must_use]
    pub const fn is_pre_release(&self) -> bool {
        self.suffix.pre_release.is_some()
    }

    /// Says whether nothing but the version is written: no variant, revision, build date or commit.
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.suffix.variant.is_empty() && self.suffix.revision.is_empty() && !self.suffix.has_commit
    }

    /// Returns the numbers that were written.
    #[must_use]
    pub fn numbers(&self) -> &[u64] {
        self.numbers.get(..self.count).unwrap_or_default()
    }

    /// Says whether the first `count` numbers are the same.
    pub(crate) fn same_beginning(&self, other: &Self, count: usize) -> bool {
        self.numbers
            .iter()
            .zip(other.numbers)
            .take(count)
            .all(|(a, b)| *a == b)
    }

    /// Orders by numbers, then pre-releases before the release; nothing else counts.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| {
            match (&self.suffix.pre_release, &other.suffix.pre_release) {
                (None, None) => Ordering::Equal,
                (None, Some(_)) => Ordering::Greater,
                (Some(_), None) => Ordering::Less,
                (Some(own), Some(others)) => own.cmp(others),
            }
        })
    }

    /// Orders as [`TagVersion::compare`]; of one version the plain release is the highest, and tags of one variant follow
    /// each other by their revisions.
    #[must_use]
    pub fn compare_exactly(&self, other: &Self) -> Ordering {
        self.compare(other)
            .then_with(|| self.is_plain().cmp(&other.is_plain()))
            .then_with(|| compare_natural(self.variant(), other.variant()))
            .then_with(|| self.suffix.revision.cmp(&other.suffix.revision))
            // `1.2.0` says more than `1.2`, which will move.
            .then_with(|| self.count.cmp(&other.count))
    }
}

/// Reads `u392` off the front.
fn update(rest: &str) -> Option<(u64, &str)> {
    let (digits, after) = leading_digits(rest.strip_prefix('u')?);
    Some((number(digits)?, after))
}
