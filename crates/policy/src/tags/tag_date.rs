//! Dates as tags write them: `20240115`, `2024-01-15`, `bookworm-20240115-slim`, `RELEASE.2024-01-15T10-20-30Z`.

use std::cmp::Ordering;

use crate::tags::natural::compare_natural;

/// The years of images.
const YEARS: std::ops::RangeInclusive<u64> = 1990..=2099;

/// The first date in a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagDate {
    /// Year, month and day; the day is 0 where none is written.
    day: [u64; 3],
    /// What follows it: often a time, or a count.
    rest: String,
}

impl TagDate {
    /// Finds the first date in a tag that is no version.
    #[must_use]
    pub fn find(tag: &str) -> Option<Self> {
        let mut before = None;
        for (at, c) in tag.char_indices() {
            let begins_digits =
                c.is_ascii_digit() && !before.is_some_and(|before: char| before.is_ascii_digit());
            // `v20240115` and `build20240115` are dates, `x2024-01` is not.
            let stands_alone = before.is_none_or(|before| {
                !before.is_ascii_alphanumeric() || (at == 1 && matches!(before, 'v' | 'V'))
            });
            before = Some(c);
            let Some(text) = tag.get(at..).filter(|_| begins_digits) else {
                continue;
            };
            let read = date(text, &['-', '_', '.']).filter(|(_, written)| {
                let is_compact = text.get(..8).is_some_and(|text| number(text).is_some());
                stands_alone || (is_compact && *written >= 8)
            });
            if let Some((day, written)) = read {
                let rest = text.get(written..).unwrap_or_default().to_owned();
                return Some(Self { day, rest });
            }
        }
        None
    }

    /// Says whether a text begins with a date; one with dots is a version of calendar versioning.
    pub(crate) fn begins(text: &str) -> bool {
        date(text, &['-', '_']).is_some()
    }

    /// Says whether digits are a day.
    pub(crate) fn is_day(digits: &str) -> bool {
        digits.len() >= 8 && date(digits, &[]).is_some()
    }

    /// Orders by the day, then by what follows.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Ordering {
        let days = self.day.cmp(&other.day);
        days.then_with(|| compare_natural(&self.rest, &other.rest))
    }
}

/// Reads a date off the front of a text that begins with a digit, and how long it is.
fn date(text: &str, separators: &[char]) -> Option<([u64; 3], usize)> {
    let digits = digits(text);
    match digits.len() {
        // With hours, minutes and seconds too.
        8 | 12 | 14 => {
            let month = number(text.get(4..6)?)?;
            let day = number(text.get(6..8)?)?;
            Some((day_of(number(text.get(..4)?)?, month, day)?, 8))
        }
        6 => Some((
            month_of(number(text.get(..4)?)?, number(text.get(4..6)?)?)?,
            6,
        )),
        4 => {
            let year = number(digits)?;
            let rest = text.get(4..)?;
            let separator = rest.chars().next().filter(|c| separators.contains(c))?;
            let rest = rest.strip_prefix(separator)?;
            let month = self::digits(rest);
            let written = 5 + month.len();
            let after = rest.get(month.len()..)?;
            let day = after.strip_prefix(separator).map(self::digits);
            if let Some(day) = day.filter(|day| (1..=2).contains(&day.len()))
                && (1..=2).contains(&month.len())
                && let Some(found) = day_of(year, number(month)?, number(day)?)
            {
                return Some((found, written + 1 + day.len()));
            }
            let ends = !after.starts_with(|c: char| c.is_ascii_alphabetic());
            // `2024.01` is a version far more often than a month.
            let is_month = month.len() == 2 && ends && separator != '.';
            Some((
                month_of(year, number(month).filter(|_| is_month)?)?,
                written,
            ))
        }
        _ => None,
    }
}

fn month_of(year: u64, month: u64) -> Option<[u64; 3]> {
    (YEARS.contains(&year) && (1..=12).contains(&month)).then_some([year, month, 0])
}

fn day_of(year: u64, month: u64, day: u64) -> Option<[u64; 3]> {
    let [year, month, _] = month_of(year, month)?;
    (1..=31).contains(&day).then_some([year, month, day])
}

fn digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit());
    text.get(..end.unwrap_or(text.len())).unwrap_or_default()
}

fn number(digits: &str) -> Option<u64> {
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_are_found_wherever_they_stand() {
        for (tag, day, rest) in [
            ("20240115", [2024, 1, 15], ""),
            ("v20240115-4ff1c8b", [2024, 1, 15], "-4ff1c8b"),
            ("2024-01-15", [2024, 1, 15], ""),
            ("2024-1-5", [2024, 1, 5], ""),
            ("2024_01_15.2", [2024, 1, 15], ".2"),
            ("2024-01", [2024, 1, 0], ""),
            ("202401", [2024, 1, 0], ""),
            ("20240115102030", [2024, 1, 15], "102030"),
            ("bookworm-20260803-slim", [2026, 8, 3], "-slim"),
            ("RELEASE.2024-01-15T10-20-30Z", [2024, 1, 15], "T10-20-30Z"),
            ("nightly-2024.01.15", [2024, 1, 15], ""),
            ("build20240115", [2024, 1, 15], ""),
        ] {
            let found = TagDate::find(tag).unwrap_or_else(|| panic!("{tag}"));
            assert_eq!((found.day, found.rest.as_str()), (day, rest), "{tag}");
        }
        for tag in [
            "latest",
            "2024",
            "ltsc2022",
            "20241501",
            "12345678",
            "1705276800",
            "18891231",
            "x2024-01",
            "2022-CU10",
            "2024-13-01",
        ] {
            assert_eq!(TagDate::find(tag), None, "{tag}");
        }
    }

    #[test]
    fn a_later_time_of_a_day_is_later() {
        let mut tags = [
            "20240115.10",
            "20240115.9",
            "2024-01-14",
            "2024-01",
            "main-20240115",
        ];
        tags.sort_by(|a, b| {
            TagDate::find(a)
                .unwrap()
                .compare(&TagDate::find(b).unwrap())
        });
        assert_eq!(
            tags,
            [
                "2024-01",
                "2024-01-14",
                "main-20240115",
                "20240115.9",
                "20240115.10"
            ]
        );
    }

    proptest! {
        #[test]
        fn no_tag_makes_it_panic(tag in "([0-9._T-]|2024|01|\\PC){0,24}") {
            drop(TagDate::find(&tag));
            TagDate::begins(&tag);
        }
    }
}
