//! The header `Retry-After` (RFC 9110, section 10.2.3).

use std::time::Duration;

use chrono::{DateTime, Utc};

/// Reads how long a peer asks to wait, in seconds or until a date, at most `longest`.
#[must_use]
pub fn parse_retry_after(value: &str, now: DateTime<Utc>, longest: Duration) -> Option<Duration> {
    let value = value.trim();
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        // A number that does not fit is longer than any wait.
        Err(_) if is_number => longest,
        Err(_) => {
            let until = DateTime::parse_from_rfc2822(value).ok()?;
            let wait = until.to_utc().signed_duration_since(now);
            wait.to_std().unwrap_or_default()
        }
    };
    Some(wait.min(longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_read_in_seconds_and_as_a_date_and_is_bounded() {
        let longest = Duration::from_secs(3_600);
        for (text, wait) in [
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("99999999999999999999999", Some(3_600)),
            ("Thu, 01 Jan 1970 00:01:00 GMT", Some(60)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(3_600)),
            ("Sun, 06 Nov 1960 08:49:37 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let read = parse_retry_after(text, DateTime::UNIX_EPOCH, longest);
            assert_eq!(read, wait.map(Duration::from_secs), "{text}");
        }
    }
}
