//! Schedules of pruning: cron with five fields, checked here and handed to the server with six.

use std::collections::BTreeSet;

use thiserror::Error;

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// The longest any month can be, in a leap year.
const MONTH_DAYS: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Reports a text that is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{schedule}` is not a schedule: {reason}")]
pub struct InvalidSchedule {
    /// The text, shortened to 100 characters.
    pub schedule: String,
    /// What is wrong with it and what to write instead.
    pub reason: String,
}

/// One of the five fields.
struct Field {
    name: &'static str,
    first: u32,
    last: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 5] = [
    Field {
        name: "minute",
        first: 0,
        last: 59,
        names: &[],
    },
    Field {
        name: "hour",
        first: 0,
        last: 23,
        names: &[],
    },
    Field {
        name: "day of month",
        first: 1,
        last: 31,
        names: &[],
    },
    Field {
        name: "month",
        first: 1,
        last: 12,
        names: &MONTHS,
    },
    Field {
        name: "day of week",
        first: 0,
        last: 7,
        names: &WEEKDAYS,
    },
];

/// Checks `minute hour day-of-month month day-of-week` and returns it with seconds, which are zero.
///
/// Names and Sunday as `7`, which the server does not know, become numbers from `0` to `6`.
///
/// # Errors
/// Text that is not of this form, or a date that never comes.
pub fn to_six_fields(schedule: &str) -> Result<String, InvalidSchedule> {
    let invalid = |reason: String| InvalidSchedule {
        schedule: schedule
            .chars()
            .take(100)
            .flat_map(char::escape_default)
            .collect(),
        reason,
    };
    let texts: Vec<&str> = schedule.split_whitespace().collect();
    if texts.len() != FIELDS.len() {
        return Err(invalid(format!(
            "it has {} fields and needs five, `minute hour day-of-month month day-of-week`, as in `0 3 * * *`",
            texts.len()
        )));
    }
    let mut fields = Vec::new();
    for (field, text) in FIELDS.iter().zip(&texts) {
        fields.push(
            field
                .read(text)
                .map_err(|reason| invalid(format!("{}: {reason}", field.name)))?,
        );
    }
    if let [_, _, days, months, weekdays] = fields.as_slice()
        && weekdays.is_empty()
        && never_comes(days, months)
    {
        return Err(invalid("that day never comes".to_owned()));
    }
    let mut six = vec!["0".to_owned()];
    for (values, text) in fields.iter().zip(texts) {
        // A star is kept: with `*/2` both day fields must hold, with a list one of them.
        six.push(if text.starts_with('*') && !text.contains(',') {
            text.to_owned()
        } else {
            values
                .iter()
                .map(u32::to_string)
                .collect::<Vec<_>>()
                .join(",")
        });
    }
    Ok(six.join(" "))
}

fn never_comes(days: &BTreeSet<u32>, months: &BTreeSet<u32>) -> bool {
    let Some(first) = days.first() else {
        return false;
    };
    !(1..)
        .zip(MONTH_DAYS)
        .any(|(month, length)| (months.is_empty() || months.contains(&month)) && *first <= length)
}

impl Field {
    /// Returns the values; none for `*`.
    fn read(&self, text: &str) -> Result<BTreeSet<u32>, String> {
        let mut values = BTreeSet::new();
        if text == "*" {
            return Ok(values);
        }
        for item in text.split(',') {
            let (range, step) = match item.split_once('/') {
                Some((range, step)) => (range, Some(step)),
                None => (item, None),
            };
            let (from, to) = match (range, range.split_once('-')) {
                ("*", _) => (self.first, self.last),
                (_, Some((from, to))) => (self.number(from)?, self.number(to)?),
                // `5/10` goes on to the end.
                (_, None) if step.is_some() => (self.number(range)?, self.last),
                (_, None) => (self.number(range)?, self.number(range)?),
            };
            if from > to {
                return Err(format!("`{range}` runs backwards"));
            }
            let step = match step {
                None => 1,
                Some(step) => step
                    .parse::<usize>()
                    .ok()
                    .filter(|step| (1..=60).contains(step))
                    .ok_or_else(|| format!("`{step}` is not a step"))?,
            };
            values.extend((from..=to).step_by(step));
        }
        if self.last == 7 && values.remove(&7) {
            values.insert(0);
        }
        Ok(values)
    }

    fn number(&self, text: &str) -> Result<u32, String> {
        let lower = text.to_ascii_lowercase();
        let named = self.names.iter().position(|name| *name == lower);
        named
            .and_then(|index| u32::try_from(index).ok())
            .map(|index| index + self.first)
            .or_else(|| text.parse().ok().filter(|_| !text.starts_with('+')))
            .filter(|number| (self.first..=self.last).contains(number))
            .ok_or_else(|| {
                format!(
                    "`{text}` is not a number from {} to {}",
                    self.first, self.last
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn five_fields_become_six() {
        for (five, six) in [
            ("0 3 * * *", "0 0 3 * * *"),
            ("*/15 * * * *", "0 */15 * * * *"),
            ("5/20 0-6/3 1,15 jan-MAR *", "0 5,25,45 0,3,6 1,15 1,2,3 *"),
            ("0 0 * * 7", "0 0 0 * * 0"),
            ("0 0 * * 5-7", "0 0 0 * * 0,5,6"),
            ("0 0 * * mon,WED", "0 0 0 * * 1,3"),
            ("  0   3 29 2 * ", "0 0 3 29 2 *"),
            (
                "0 0 */2,31 * 1",
                "0 0 0 1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31 * 1",
            ),
            ("0 0 31 2 1", "0 0 0 31 2 1"),
        ] {
            assert_eq!(to_six_fields(five).unwrap(), six, "{five}");
        }
    }

    #[test]
    fn a_bad_schedule_says_which_field_and_why() {
        for (schedule, part) in [
            ("", "has 0 fields"),
            ("0 3 * *", "has 4 fields"),
            ("0 0 3 * * *", "has 6 fields"),
            ("@daily", "has 1 fields"),
            ("60 3 * * *", "minute: `60` is not a number from 0 to 59"),
            ("0 24 * * *", "hour: `24`"),
            ("0 3 0 * *", "day of month: `0`"),
            ("0 3 * 13 *", "month: `13`"),
            ("0 3 * * 8", "day of week: `8`"),
            ("0 3 * * funday", "day of week: `funday`"),
            ("0 5-3 * * *", "hour: `5-3` runs backwards"),
            ("*/0 3 * * *", "minute: `0` is not a step"),
            ("0, 3 * * *", "minute: `` is not a number"),
            ("+5 3 * * *", "minute: `+5`"),
            ("0 0 31 2 *", "that day never comes"),
            ("0 0 31 4,jun *", "that day never comes"),
        ] {
            let message = to_six_fields(schedule).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,30}", near in "[0-9*,/ a-z-]{0,20}( [*0-9/-]{1,4}){4}") {
            drop(to_six_fields(&text));
            if let Ok(six) = to_six_fields(&near) {
                prop_assert_eq!(six.split(' ').count(), 6);
            }
        }
    }
}
