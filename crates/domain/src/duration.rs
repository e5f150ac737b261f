//! Durations as people write them in resources: `30s`, `15m`, `24h`, `7d`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::InvalidName;

/// A duration of whole seconds, written with one unit.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schemars(title = "duration")]
pub struct DurationText(u64);

impl DurationText {
    /// Makes a duration of this many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// Returns it for the standard library.
    #[must_use]
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl FromStr for DurationText {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || {
            InvalidName::new(
                "duration",
                text,
                "expected a number and a unit, as in `30s`, `15m`, `24h` or `7d`",
            )
        };
        let unit = text.chars().last().ok_or_else(invalid)?;
        let scale = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(invalid()),
        };
        let number = text.strip_suffix(unit).unwrap_or_default();
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let seconds = number
            .checked_mul(scale)
            .filter(|seconds| *seconds <= 3_650 * 86_400);
        seconds.map(Self).ok_or_else(invalid)
    }
}

impl TryFrom<String> for DurationText {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<DurationText> for String {
    fn from(duration: DurationText) -> Self {
        duration.to_string()
    }
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (scale, unit) in [(86_400, 'd'), (3_600, 'h'), (60, 'm')] {
            if self.0 >= scale && self.0.is_multiple_of(scale) {
                return write!(f, "{}{unit}", self.0 / scale);
            }
        }
        write!(f, "{}s", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_one_number_and_one_unit() {
        assert_eq!(
            "15m".parse::<DurationText>().unwrap().duration(),
            Duration::from_secs(900)
        );
        assert_eq!("7d".parse::<DurationText>().unwrap().to_string(), "7d");
        for bad in [
            "",
            "m",
            "15",
            "15 m",
            "-1s",
            "+1s",
            "1w",
            "1.5h",
            "99999999999999999999s",
            "1é",
        ] {
            assert!(bad.parse::<DurationText>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn prints_what_it_reads(seconds in 0_u64..300_000_000) {
            let text = DurationText::from_secs(seconds).to_string();
            prop_assert_eq!(text.parse::<DurationText>().unwrap(), DurationText::from_secs(seconds));
        }
    }
}
