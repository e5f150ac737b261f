//! Version ranges: `>=3.18`, `1.27.x`, `^1.2`, `~1.2.3`, `>=1.2 <2`, `1.2 || 1.4`.

use std::str::FromStr;

use thiserror::Error;

use crate::tags::version::TagVersion;

/// The longest range.
const MAX_LENGTH: usize = 256;

/// A range that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "`{text}` is not a version range: {reason}; write one like `>=3.18`, `1.27.x` or `>=1.2 <2 || ^3.1`"
)]
pub struct InvalidRange {
    text: String,
    reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    AtLeast,
    Above,
    AtMost,
    Below,
    Equal,
    Not,
    Caret,
    Tilde,
    Beginning,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Comparison {
    operator: Operator,
    version: TagVersion,
}

/// Alternatives of comparisons that must all hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range(Vec<Vec<Comparison>>);

impl Range {
    /// Says whether a version lies in the range; a pre-release does only where an alternative names one.
    #[must_use]
    pub fn contains(&self, version: &TagVersion) -> bool {
        self.0.iter().any(|alternative| {
            let admitted =
                !version.is_pre_release() || alternative.iter().any(|c| c.version.is_pre_release());
            admitted && all_hold(alternative, version)
        })
    }

    /// Says whether it would contain a version if that were no pre-release.
    pub(crate) fn would_contain(&self, version: &TagVersion) -> bool {
        self.0
            .iter()
            .any(|alternative| all_hold(alternative, version))
    }
}

fn all_hold(alternative: &[Comparison], version: &TagVersion) -> bool {
    alternative
        .iter()
        .all(|comparison| comparison.holds(version))
}

impl Comparison {
    fn holds(&self, version: &TagVersion) -> bool {
        let order = version.compare(&self.version);
        let written = self.version.numbers().len();
        let within = |count: usize| version.same_beginning(&self.version, count.min(written));
        // With fewer than three numbers a version stands for all that begin with it; a pre-release is itself.
        let family = written < 3 && !self.version.is_pre_release() && within(written);
        match self.operator {
            Operator::AtLeast => order.is_ge(),
            // `>1.27` means above all of 1.27.
            Operator::Above => order.is_gt() && !family,
            Operator::AtMost => order.is_le() || family,
            Operator::Below => order.is_lt(),
            Operator::Equal => order.is_eq() || family,
            Operator::Not => order.is_ne() && !family,
            Operator::Beginning => within(written),
            Operator::Tilde => order.is_ge() && within(2),
            Operator::Caret => {
                let significant = self
                    .version
                    .numbers()
                    .iter()
                    .position(|number| *number != 0);
                order.is_ge() && within(significant.unwrap_or(written.saturating_sub(1)) + 1)
            }
        }
    }

    fn parse(token: &str) -> Result<Self, String> {
        const OPERATORS: [(&str, Operator); 8] = [
            (">=", Operator::AtLeast),
            ("<=", Operator::AtMost),
            ("!=", Operator::Not),
            (">", Operator::Above),
            ("<", Operator::Below),
            ("=", Operator::Equal),
            ("^", Operator::Caret),
            ("~", Operator::Tilde),
        ];
        let found = OPERATORS
            .iter()
            .find_map(|(sign, operator)| Some((Some(*operator), token.strip_prefix(sign)?)));
        let (operator, text) = found.unwrap_or((None, token));
        if matches!(text, "*" | "x") && operator.is_none() {
            let version = TagVersion::parse("0").ok_or("`0` is not a version")?;
            return Ok(Self {
                operator: Operator::AtLeast,
                version,
            });
        }
        let mut base = text;
        while let Some(shorter) = base.strip_suffix(".x").or_else(|| base.strip_suffix(".*")) {
            base = shorter;
        }
        let wild = base.len() != text.len();
        let version = TagVersion::parse(base).ok_or_else(|| format!("`{token}` has no version"))?;
        if !version.is_plain() {
            return Err(format!(
                "`{token}` has a variant, which ranges do not compare; choose variants with `include: ['*-alpine']`"
            ));
        }
        let operator = match operator {
            None | Some(Operator::Equal) if wild => Operator::Beginning,
            Some(_) if wild => {
                return Err(format!("`{token}` has both a wildcard and a comparison"));
            }
            // `1.27` means `1.27.x`, which `Equal` knows.
            None => Operator::Equal,
            Some(operator) => operator,
        };
        Ok(Self { operator, version })
    }
}

impl FromStr for Range {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |reason: String| InvalidRange {
            text: text.chars().take(60).collect(),
            reason,
        };
        if text.len() > MAX_LENGTH {
            return Err(invalid("it is longer than 256 characters".to_owned()));
        }
        let mut alternatives = Vec::new();
        for alternative in text.split("||") {
            let spaced = alternative.replace(',', " ");
            let mut comparisons = Vec::new();
            let mut tokens = spaced.split_whitespace();
            while let Some(token) = tokens.next() {
                // `>= 1.2` is written with a space by many.
                let alone = token.chars().all(|c| "<>=!^~".contains(c));
                let token = if alone {
                    format!("{token}{}", tokens.next().unwrap_or_default())
                } else {
                    token.to_owned()
                };
                comparisons.push(Comparison::parse(&token).map_err(invalid)?);
            }
            if comparisons.is_empty() {
                return Err(invalid("an alternative is empty".to_owned()));
            }
            alternatives.push(comparisons);
        }
        Ok(Self(alternatives))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_hold_for_real_tags() {
        for (range, tag, holds) in [
            (">=3.18", "3.20.1-alpine", true),
            (">=3.18", "3.9", false),
            ("1.27.x", "1.27.3-alpine3.20", true),
            ("1.27", "1.27.3", true),
            ("1.27.x", "1.28.0", false),
            ("^1.2", "1.9.0", true),
            ("^1.2", "2.0", false),
            ("^0.2.3", "0.2.9", true),
            ("^0.2.3", "0.3.0", false),
            ("~1.2.3", "1.2.9", true),
            ("~1.2.3", "1.3.0", false),
            (">=1.20, <1.28", "1.27.9", true),
            (">=1.20 <1.28", "1.28.0", false),
            ("1.2 || 1.4", "1.4.7", true),
            (">=1.0", "1.2.3-rc1", false),
            (">=1.2.3-rc1", "1.2.3-rc2", true),
            (">=1.2.3-rc1", "1.2.3", true),
            (">1.27", "1.27.5", false),
            (">1.27", "1.28", true),
            ("<=1.27", "1.27.5", true),
            (">= 17", "17-jre-alpine", true),
            ("=1.2.3", "v1.2.3", true),
            ("1.x", "1.9", true),
            ("*", "1.9", true),
            ("!=1.9.0", "1.9.0", false),
            (">=17", "17-jre-alpine", true),
            ("=1.27", "1.27.4", true),
            ("!=1.27", "1.27.4", false),
            ("!=1.27.3", "1.27.4", true),
            ("1.2.3.x", "1.2.3.9", true),
            ("1.2.3", "1.2.3.9", false),
            ("=1.2.3", "1.2.3-r4", true),
            ("1.2-rc1", "1.2.5", false),
            ("1.2-rc1", "1.2-rc1", true),
            ("^0.0", "0.0.7", true),
            ("^0.0", "0.1", false),
            ("~1", "1.9", true),
            ("~1.2", "1.3", false),
            (">=1", "24-ea-28-jdk-oracle", false),
            (">=24-ea", "24-ea-28-jdk-oracle", true),
            ("13.x", "13.0.1-ubi-rc", false),
            (">=1", "1.9.7.Final", true),
            ("^8", "8u392-b08-jre", true),
        ] {
            let version = TagVersion::parse(tag).unwrap();
            assert_eq!(
                range.parse::<Range>().unwrap().contains(&version),
                holds,
                "{range} {tag}"
            );
        }
    }

    #[test]
    fn a_bad_range_says_why_and_what_to_write() {
        for (range, part) in [
            ("", "an alternative is empty"),
            ("1 ||", "an alternative is empty"),
            (">=>1", "`>=>1` has no version"),
            ("latest", "`latest` has no version"),
            (">=", "`>=` has no version"),
            (">=1.x", "both a wildcard and a comparison"),
            (">=2024-01-15", "has no version"),
            (">=3.18-alpine", "choose variants with `include"),
            ("1.2.3-0", "choose variants with `include"),
        ] {
            let message = range.parse::<Range>().unwrap_err().to_string();
            assert!(
                message.contains(part) && message.contains(">=3.18"),
                "{message}"
            );
        }
        assert!("1 ".repeat(200).parse::<Range>().is_err());
    }

    proptest! {
        #[test]
        fn no_range_makes_it_panic(range in "[0-9a-z.<>=^~|*, x-]{0,30}", tag in "[0-9a-z.-]{0,12}") {
            if let (Ok(range), Some(version)) = (range.parse::<Range>(), TagVersion::parse(&tag)) {
                prop_assert!(range.contains(&version) || !range.contains(&version));
            }
        }

        #[test]
        fn bounds_hold(major in 0_u64..9, minor in 0_u64..9, patch in 0_u64..9) {
            let version = TagVersion::parse(&format!("{major}.{minor}.{patch}")).unwrap();
            for (range, expected) in [
                (format!(">={major}.{minor}.{patch}"), true),
                (format!("{major}.{minor}"), true),
                (format!("<{major}.{minor}.{patch}"), false),
                (format!(">{major}.{minor}"), false),
            ] {
                prop_assert_eq!(range.parse::<Range>().unwrap().contains(&version), expected);
            }
        }
    }
}
