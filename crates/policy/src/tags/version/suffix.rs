//! What follows the numbers of a version: pre-release, revision, build, variant.

use super::digits::{leading_digits, number};
use crate::tags::tag_date::TagDate;

/// Words of pre-releases with their rank, in the order of a release's life.
const PRE_RELEASES: [(&str, u8); 16] = [
    ("snapshot", 0),
    ("nightly", 0),
    ("canary", 0),
    ("unstable", 0),
    ("experimental", 0),
    ("dev", 1),
    ("alpha", 2),
    ("ea", 2),
    ("eap", 2),
    ("beta", 3),
    ("milestone", 4),
    ("preview", 4),
    ("prerelease", 4),
    ("pre", 4),
    ("rc", 5),
    ("cr", 5),
];
/// The short words, which mean a pre-release directly behind the numbers and with a number only: `1.2a1`, `1.4.0-M1`.
const SHORT_PRE_RELEASES: [(&str, u8); 3] = [("a", 2), ("b", 3), ("m", 4)];
/// Words that say that it is a release, as in `1.9.7.Final`.
const RELEASES: [&str; 3] = ["final", "ga", "release"];
/// Words before the number of a packaging revision, as in `-r11` and `-ls51`.
const REVISIONS: [&str; 5] = ["r", "rev", "ls", "build", "post"];
/// The separators of the parts of a tag.
const SEPARATORS: [char; 4] = ['-', '_', '.', '+'];

/// What follows the numbers of a version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Suffix {
    /// The rank of the word, and the numbers behind it.
    pub(super) pre_release: Option<(u8, Vec<u64>)>,
    /// Packaging revisions, builds and build dates, in the order in which they are written.
    pub(super) revision: Vec<u64>,
    /// Whether a commit is named, which says nothing of the order.
    pub(super) has_commit: bool,
    /// All the rest.
    pub(super) variant: String,
}

/// What a number without a word belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// The numbers of the version, or a revision.
    Numbers,
    PreRelease,
    Variant,
}

impl Suffix {
    /// Reads what follows so many numbers; `None` if it makes the tag no version.
    pub(super) fn parse(rest: &str, numbers: usize) -> Option<Self> {
        let mut suffix = Self::default();
        if rest.is_empty() || rest.starts_with(SEPARATORS) {
            suffix.read(rest)?;
            return Some(suffix);
        }
        // `1.2rc1` and `19beta3` are pre-releases, `3a7` may be part of a commit, and `1.2x` can be anything.
        let end = rest.find(SEPARATORS).unwrap_or(rest.len());
        let (first, after) = rest.split_at_checked(end)?;
        let (rank, number) = pre_release(first, true)?;
        if numbers < 2 && first.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        suffix.pre_release = Some((rank, number.into_iter().collect()));
        suffix.read(after)?;
        Some(suffix)
    }

    /// Reads what follows an update of Java, as in `8u392-b08-jre`.
    pub(super) fn of_java_update(rest: &str) -> Option<Self> {
        let build = rest.strip_prefix("-b").unwrap_or_default();
        let (digits, after) = leading_digits(build);
        let build = number(digits);
        let mut suffix = Self::parse(if build.is_some() { after } else { rest }, 3)?;
        suffix.revision.splice(..0, build);
        Some(suffix)
    }

    /// Reads parts that each begin with a separator.
    fn read(&mut self, mut rest: &str) -> Option<()> {
        let mut before = match &self.pre_release {
            Some(_) => Before::PreRelease,
            None => Before::Numbers,
        };
        let mut is_first = self.pre_release.is_none();
        while let Some(text) = rest.strip_prefix(SEPARATORS) {
            let separator = rest.get(..1)?;
            let end = text.find(SEPARATORS).unwrap_or(text.len());
            let (part, after) = text.split_at_checked(end)?;
            if part.is_empty() && separator == "." {
                return None;
            }
            before = self.take(separator, part, after, (before, is_first));
            (rest, is_first) = (after, false);
        }
        self.variant = self.variant.trim_matches(SEPARATORS).to_owned();
        Some(())
    }

    fn take(
        &mut self,
        separator: &str,
        part: &str,
        after: &str,
        (before, is_first): (Before, bool),
    ) -> Before {
        if let Some(number) = number(part) {
            match (before, &mut self.pre_release) {
                (Before::PreRelease, Some((_, numbers))) => numbers.push(number),
                (Before::Variant, _) if !TagDate::is_day(part) => {
                    self.keep(separator, part);
                    return Before::Variant;
                }
                _ => self.revision.push(number),
            }
            return before;
        }
        if let Some((rank, number)) = pre_release(part, is_first) {
            self.pre_release
                .get_or_insert_with(|| (rank, number.into_iter().collect()));
            return Before::PreRelease;
        }
        if RELEASES.contains(&part) {
            return before;
        }
        if let Some(revision) = word_with_number(part, &REVISIONS) {
            let followed = after
                .strip_prefix('.')
                .is_some_and(|after| after.starts_with(|c: char| c.is_ascii_digit()));
            if revision.is_some() || followed {
                self.revision.extend(revision);
                return Before::Numbers;
            }
        }
        if is_commit(part) {
            self.has_commit = true;
            return before;
        }
        self.keep(separator, part);
        Before::Variant
    }

    fn keep(&mut self, separator: &str, part: &str) {
        self.variant.push_str(separator);
        self.variant.push_str(part);
    }
}

/// Reads a word of a pre-release with the number behind it.
fn pre_release(part: &str, is_first: bool) -> Option<(u8, Option<u64>)> {
    for (word, rank) in PRE_RELEASES {
        if let Some(number) = word_with_number(part, &[word]) {
            return Some((rank, number));
        }
    }
    for (word, rank) in SHORT_PRE_RELEASES {
        if let (true, Some(Some(number))) = (is_first, word_with_number(part, &[word])) {
            return Some((rank, Some(number)));
        }
    }
    None
}

/// Reads one of some words, with a number behind it or without.
fn word_with_number(part: &str, words: &[&str]) -> Option<Option<u64>> {
    words
        .iter()
        .find_map(|word| match part.strip_prefix(word)? {
            "" => Some(None),
            digits => Some(Some(number(digits)?)),
        })
}

/// Says whether a part is a commit, as `8f4248874` or `g1f0d3ab` of git describe.
fn is_commit(part: &str) -> bool {
    let hex = part.strip_prefix('g').unwrap_or(part);
    (7..=40).contains(&hex.len())
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
        && hex.bytes().any(|b| b.is_ascii_digit())
}
