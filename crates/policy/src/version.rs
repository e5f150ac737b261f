//! Versions as real Docker tags write them: `[v]N[.N]{0,3}[-pre][-rN][-variant]`.

use std::cmp::Ordering;

/// Words that mark a pre-release, with their rank.
const PRE_RELEASES: [(&str, u8); 10] = [
    ("snapshot", 0),
    ("nightly", 0),
    ("canary", 0),
    ("preview", 4),
    ("alpha", 2),
    ("beta", 3),
    ("dev", 1),
    ("rc", 5),
    ("a", 2),
    ("b", 3),
];

/// A single number from here on is a date.
const FIRST_DATE: u64 = 19_000_101;

/// A tag read as a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagVersion {
    numbers: [u64; 4],
    count: usize,
    pre_release: Option<(u8, u64)>,
    revision: Option<u64>,
    variant: String,
}

impl TagVersion {
    /// Reads a tag; `None` for one that is no version, as `latest`, a date or a commit.
    #[must_use]
    pub fn parse(tag: &str) -> Option<Self> {
        let text = tag
            .strip_prefix(['v', 'V'])
            .unwrap_or(tag)
            .to_ascii_lowercase();
        let end = text
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(text.len());
        let (head, rest) = text.split_at_checked(end)?;
        let mut numbers = [0; 4];
        let mut count = 0;
        for part in head.split('.') {
            *numbers.get_mut(count)? = number(part)?;
            count += 1;
        }
        if count == 1 && numbers.first().is_some_and(|first| *first >= FIRST_DATE) {
            return None;
        }
        let (pre_release, rest) = pre_release(rest, count)?;
        let (revision, variant) = revision(rest);
        Some(Self {
            numbers,
            count,
            pre_release,
            revision,
            variant,
        })
    }

    /// Returns what follows the version, as `alpine`; it is compared, never ordered.
    #[must_use]
    pub fn variant(&self) -> &str {
        &self.variant
    }

    /// Says whether it is a pre-release.
    #[must_use]
    pub const fn is_pre_release(&self) -> bool {
        self.pre_release.is_some()
    }

    /// Says whether it has a packaging revision, as `-r3`.
    pub(crate) const fn has_revision(&self) -> bool {
        self.revision.is_some()
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

    /// Orders by numbers, then pre-releases before the release; the packaging revision and the variant do not count.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Ordering {
        self.numbers
            .cmp(&other.numbers)
            .then_with(|| match (self.pre_release, other.pre_release) {
                (None, None) => Ordering::Equal,
                (None, Some(_)) => Ordering::Greater,
                (Some(_), None) => Ordering::Less,
                (Some(own), Some(others)) => own.cmp(&others),
            })
    }

    /// Orders as [`TagVersion::compare`], then by the packaging revision.
    #[must_use]
    pub fn compare_exactly(&self, other: &Self) -> Ordering {
        self.compare(other).then(self.revision.cmp(&other.revision))
    }
}

fn number(text: &str) -> Option<u64> {
    if text.is_empty() || text.len() > 18 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Takes a pre-release off the front; `None` if what is there makes the tag no version at all.
fn pre_release(rest: &str, numbers: usize) -> Option<(Option<(u8, u64)>, &str)> {
    let body = rest.strip_prefix(['-', '_']).unwrap_or(rest);
    let glued = body.len() == rest.len();
    for (word, rank) in PRE_RELEASES {
        let Some(after) = body.strip_prefix(word) else {
            continue;
        };
        if after.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        let counted = after
            .strip_prefix(['.', '-'])
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let counted = counted.unwrap_or(after);
        let end = counted
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(counted.len());
        let (digits, tail) = counted.split_at_checked(end)?;
        // `3a7f9c1` is a commit and not the first alpha of 3.
        if (glued && numbers < 2) || !(tail.is_empty() || tail.starts_with(['-', '_', '.', '+'])) {
            return None;
        }
        let count = if digits.is_empty() {
            0
        } else {
            number(digits)?
        };
        return Some((Some((rank, count)), tail));
    }
    if rest.is_empty() || rest.starts_with(['-', '_', '+']) {
        Some((None, rest))
    } else {
        None
    }
}

/// Takes a packaging revision off the front, as `r3` or `1`; the rest is the variant.
fn revision(rest: &str) -> (Option<u64>, String) {
    let rest = rest.trim_start_matches(['-', '_', '+', '.']);
    let (first, tail) = rest.split_once('-').unwrap_or((rest, ""));
    let digits = first.strip_prefix('r').unwrap_or(first);
    if digits.len() < 6
        && let Some(revision) = number(digits)
    {
        return (Some(revision), tail.to_owned());
    }
    (None, rest.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_docker_tags_write() {
        for (tag, numbers, pre_release, revision, variant) in [
            ("v1.2", &[1, 2][..], None, None, ""),
            ("1.27", &[1, 27], None, None, ""),
            ("1.27.3", &[1, 27, 3], None, None, ""),
            ("1.27.3-alpine3.20", &[1, 27, 3], None, None, "alpine3.20"),
            ("3.20.1-alpine", &[3, 20, 1], None, None, "alpine"),
            ("3.20", &[3, 20], None, None, ""),
            ("v1.31.0-rc.1", &[1, 31, 0], Some((5, 1)), None, ""),
            ("1.2.3-rc1", &[1, 2, 3], Some((5, 1)), None, ""),
            ("1.2.3rc1", &[1, 2, 3], Some((5, 1)), None, ""),
            (
                "1.2.3-beta2-alpine",
                &[1, 2, 3],
                Some((3, 2)),
                None,
                "alpine",
            ),
            (
                "8.0.36-debian-12-r3",
                &[8, 0, 36],
                None,
                None,
                "debian-12-r3",
            ),
            ("17", &[17], None, None, ""),
            ("17-jre-alpine", &[17], None, None, "jre-alpine"),
            ("2.4.62-0ubuntu1", &[2, 4, 62], None, None, "0ubuntu1"),
            ("2026.11.23", &[2026, 11, 23], None, None, ""),
            ("1.2.3.4", &[1, 2, 3, 4], None, None, ""),
            ("v1.2.3+k3s1", &[1, 2, 3], None, None, "k3s1"),
            ("1.27.3-0", &[1, 27, 3], None, Some(0), ""),
            ("007", &[7], None, None, ""),
            ("1.20-bookworm", &[1, 20], None, None, "bookworm"),
            ("1.2.0-PREVIEW2", &[1, 2, 0], Some((4, 2)), None, ""),
            ("1.10.1-r2-alpine", &[1, 10, 1], None, Some(2), "alpine"),
        ] {
            let version = TagVersion::parse(tag).unwrap_or_else(|| panic!("{tag}"));
            assert_eq!(version.numbers(), numbers, "{tag}");
            assert_eq!(version.pre_release, pre_release, "{tag}");
            assert_eq!(version.revision, revision, "{tag}");
            assert_eq!(version.variant(), variant, "{tag}");
        }
        for tag in [
            "20261123",
            "latest",
            "3a7f9c1",
            "1..2",
            "99999999999999999999.1",
            "stable-1.2",
            "",
            "v",
            "1.2.3.4.5",
            "1.2x",
        ] {
            assert_eq!(TagVersion::parse(tag), None, "{tag}");
        }
    }

    #[test]
    fn versions_are_ordered() {
        let mut tags = [
            "1.10",
            "1.9",
            "1.10-rc1",
            "1.10.1",
            "1.2",
            "1.10.1-r2",
            "1.10.1-r10",
        ];
        tags.sort_by(|a, b| {
            TagVersion::parse(a)
                .unwrap()
                .compare_exactly(&TagVersion::parse(b).unwrap())
        });
        assert_eq!(
            tags,
            [
                "1.2",
                "1.9",
                "1.10-rc1",
                "1.10",
                "1.10.1",
                "1.10.1-r2",
                "1.10.1-r10"
            ]
        );
    }

    proptest! {
        #[test]
        fn no_tag_makes_it_panic(tag in ".{0,40}") {
            drop(TagVersion::parse(&tag));
        }
    }
}
