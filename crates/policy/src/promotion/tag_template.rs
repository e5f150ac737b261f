//! Tag templates with the nineteen keywords of Docker Trusted Registry.
//!
//! `%n` is the source's tag; the others are parts of the decision's time in UTC.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Timelike as _, Utc};
use sluice_domain::{InvalidName, Tag};
use thiserror::Error;

use super::token_pattern::{CharClass, Token};

/// Why a text is not a tag template.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidTemplate {
    /// A `%` without a keyword.
    #[error(
        "`%{keyword}` is not a keyword; there are %n %A %a %w %d %B %b %m %Y %y %H %I %p %M %S %f %Z %j %W"
    )]
    Keyword {
        /// What follows the `%`; empty at the end.
        keyword: String,
    },
    /// The text between the keywords is not valid in a tag.
    #[error("`{template}` does not make a tag")]
    Text {
        /// The template.
        template: String,
        /// What a sample of it breaks.
        source: InvalidName,
    },
}

/// A checked template for a tag, as in `%n-%Y%m%d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagTemplate {
    text: String,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(char),
    SourceTag,
    /// `%f`, which chrono would give in nanoseconds.
    Microsecond,
    /// A part of the time, in chrono's notation.
    Time(&'static str),
}

impl TagTemplate {
    /// Returns the tag for a source's tag at this time.
    ///
    /// # Errors
    /// A result that is no tag, as when it is longer than 128 characters.
    pub fn render(&self, tag: &Tag, at: DateTime<Utc>) -> Result<Tag, InvalidName> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(c) => text.push(*c),
                Part::SourceTag => text.push_str(tag.as_str()),
                // A leap second counts on beyond the last microsecond.
                Part::Microsecond => {
                    text.push_str(&format!("{:06}", (at.nanosecond() / 1_000).min(999_999)));
                }
                Part::Time(format) => text.push_str(&at.format(format).to_string()),
            }
        }
        text.parse()
    }
}

impl TagTemplate {
    /// Returns the pattern of its tags.
    pub(super) fn tokens(&self) -> Vec<Token> {
        let token = |part: &Part| match part {
            Part::Text(c) => Token::Char(*c),
            Part::SourceTag => Token::Many(CharClass::Any),
            Part::Time("%A" | "%a" | "%B" | "%b" | "%p" | "%Z") => Token::Many(CharClass::Letter),
            Part::Microsecond | Part::Time(_) => Token::Many(CharClass::Digit),
        };
        self.parts.iter().map(token).collect()
    }

    /// Says whether each source tag gives one target tag, and no other source tag gives the same.
    pub(super) fn keeps_source_tag(&self) -> bool {
        let sources = self.parts.iter().filter(|part| **part == Part::SourceTag);
        let is_timed = |part: &Part| matches!(part, Part::Microsecond | Part::Time(_));
        sources.count() == 1 && !self.parts.iter().any(is_timed)
    }
}

impl FromStr for TagTemplate {
    type Err = InvalidTemplate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            parts.push(if c == '%' {
                keyword(rest.next())?
            } else {
                Part::Text(c)
            });
        }
        let template = Self {
            text: text.to_owned(),
            parts,
        };
        let sample = "x"
            .parse()
            .and_then(|tag| template.render(&tag, DateTime::UNIX_EPOCH));
        match sample {
            Ok(_) => Ok(template),
            Err(source) => Err(InvalidTemplate::Text {
                template: template.text,
                source,
            }),
        }
    }
}

impl fmt::Display for TagTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn keyword(letter: Option<char>) -> Result<Part, InvalidTemplate> {
    Ok(match letter {
        Some('n') => Part::SourceTag,
        Some('f') => Part::Microsecond,
        Some('A') => Part::Time("%A"),
        Some('a') => Part::Time("%a"),
        Some('w') => Part::Time("%w"),
        Some('d') => Part::Time("%d"),
        Some('B') => Part::Time("%B"),
        Some('b') => Part::Time("%b"),
        Some('m') => Part::Time("%m"),
        Some('Y') => Part::Time("%Y"),
        Some('y') => Part::Time("%y"),
        Some('H') => Part::Time("%H"),
        Some('I') => Part::Time("%I"),
        Some('p') => Part::Time("%p"),
        Some('M') => Part::Time("%M"),
        Some('S') => Part::Time("%S"),
        Some('Z') => Part::Time("%Z"),
        Some('j') => Part::Time("%j"),
        Some('W') => Part::Time("%W"),
        other => {
            let keyword = other.map(String::from).unwrap_or_default();
            return Err(InvalidTemplate::Keyword { keyword });
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn render(template: &str, at: &str) -> String {
        let template: TagTemplate = template.parse().unwrap();
        let at: DateTime<Utc> = at.parse().unwrap();
        template
            .render(&"1.27".parse().unwrap(), at)
            .unwrap()
            .to_string()
    }

    #[test]
    fn each_keyword_gives_what_dtr_documents() {
        // A Monday, in the first week that starts on a Monday.
        let at = "2026-01-05T00:07:09.000042Z";
        for (keyword, expected) in [
            ("%n", "1.27"),
            ("%A", "Monday"),
            ("%a", "Mon"),
            ("%w", "1"),
            ("%d", "05"),
            ("%B", "January"),
            ("%b", "Jan"),
            ("%m", "01"),
            ("%Y", "2026"),
            ("%y", "26"),
            ("%H", "00"),
            ("%I", "12"),
            ("%p", "AM"),
            ("%M", "07"),
            ("%S", "09"),
            ("%f", "000042"),
            ("%Z", "UTC"),
            ("%j", "005"),
            ("%W", "01"),
        ] {
            assert_eq!(render(keyword, at), expected, "{keyword}");
        }
        assert_eq!(
            render("%n-%Y%m%d.%H%M", "2026-11-24T13:05:00Z"),
            "1.27-20261124.1305"
        );
    }

    #[test]
    fn edges_of_the_day_and_the_year_are_right() {
        for (keyword, at, expected) in [
            ("%W", "2026-01-01T00:00:00Z", "00"),
            ("%W", "2024-12-31T00:00:00Z", "53"),
            ("%j", "2024-12-31T00:00:00Z", "366"),
            ("%I", "2026-01-01T12:00:00Z", "12"),
            ("%p", "2026-01-01T12:00:00Z", "PM"),
            ("%I", "2026-01-01T23:59:59Z", "11"),
            ("%w", "2026-01-04T00:00:00Z", "0"),
            ("%f", "2026-01-01T00:00:00.999999999Z", "999999"),
        ] {
            assert_eq!(render(keyword, at), expected, "{keyword} at {at}");
        }
    }

    #[test]
    fn what_cannot_make_a_tag_is_refused_at_once() {
        for (template, expected) in [
            ("%q", "`%q` is not a keyword"),
            ("%n%", "`%` is not a keyword"),
            ("%n/%d", "`%n/%d` does not make a tag"),
            ("", "does not make a tag"),
            ("-%n", "does not make a tag"),
            ("%%n", "`%%` is not a keyword"),
        ] {
            let error = template.parse::<TagTemplate>().unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn a_result_that_is_too_long_is_an_error() {
        let template: TagTemplate = "%n-%n".parse().unwrap();
        let tag: Tag = "a".repeat(100).parse().unwrap();
        assert!(template.render(&tag, DateTime::UNIX_EPOCH).is_err());
    }

    proptest! {
        #[test]
        fn whatever_parses_renders_without_a_panic(text in "[%a-zA-Z0-9._-]{0,12}", seconds in -9_999_999_999_i64..99_999_999_999) {
            if let Ok(template) = text.parse::<TagTemplate>() {
                let at = DateTime::from_timestamp(seconds, 0).unwrap();
                drop(template.render(&"1.27".parse().unwrap(), at));
                prop_assert_eq!(template.to_string(), text);
            }
        }
    }
}
