//! Content digests, sha256 only: Distribution 2.8 stores no other algorithm.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::text_newtype;

text_newtype!(
    /// The digest of some content: `sha256:` and 64 lower-case hexadecimal digits.
    Digest,
    "digest",
    check
);

impl Digest {
    /// Returns the hexadecimal part.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.as_str().strip_prefix("sha256:").unwrap_or_default()
    }

    /// Returns the first twelve hexadecimal digits, for tables.
    #[must_use]
    pub fn short(&self) -> &str {
        self.hex().get(..12).unwrap_or_default()
    }
}

fn check(text: &str) -> Result<String, &'static str> {
    let hex = text
        .strip_prefix("sha256:")
        .ok_or("only sha256 digests are supported, written `sha256:<64 hex digits>`")?;
    if hex.len() != 64
        || !hex
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        return Err("expected 64 lower-case hexadecimal digits after `sha256:`");
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_sha256_is_a_digest() {
        let good = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(good.parse::<Digest>().unwrap().hex().len(), 64);
        assert_eq!(good.parse::<Digest>().unwrap().short(), "0a0a0a0a0a0a");
        for bad in [
            "",
            "sha256:",
            "sha512:00",
            &good.to_uppercase(),
            "sha256:0a",
            &format!("{good}0"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
