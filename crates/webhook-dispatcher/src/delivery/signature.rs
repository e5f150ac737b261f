//! Signatures as Standard Webhooks has them: HMAC-SHA256 over id, timestamp and body, one for each secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use sha2::Sha256;
use thiserror::Error;

/// The prefix of every secret.
const PREFIX: &str = "whsec_";
/// The most secrets of one endpoint.
const MAX_KEYS: usize = 16;

/// A secret that cannot be parsed; its text is in no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum InvalidSecret {
    #[error("line {line} is not a secret; write `whsec_` and the base64 of 24 to 64 bytes")]
    Line { line: usize },
    #[error("there are more than {MAX_KEYS} secrets")]
    Many,
    #[error("there is no secret")]
    None,
}

/// The secrets of an endpoint, newest first.
#[derive(Debug)]
pub(crate) struct SigningKeys(Vec<SecretSlice<u8>>);

impl SigningKeys {
    /// Reads secrets, one a line; empty lines do not count.
    pub(crate) fn read(text: &SecretString) -> Result<Self, InvalidSecret> {
        let mut keys = Vec::new();
        for (line, number) in text.expose_secret().lines().zip(1..) {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let key = line
                .strip_prefix(PREFIX)
                .and_then(|encoded| STANDARD.decode(encoded).ok())
                .filter(|key| (24..=64).contains(&key.len()))
                .ok_or(InvalidSecret::Line { line: number })?;
            keys.push(key.into());
        }
        match keys.len() {
            0 => Err(InvalidSecret::None),
            1..=MAX_KEYS => Ok(Self(keys)),
            _ => Err(InvalidSecret::Many),
        }
    }

    /// Redacts the shared secrets in an answer of the endpoint.
    pub(crate) fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for key in &self.0 {
            text = text.replace(&STANDARD.encode(key.expose_secret()), "[secret]");
        }
        text
    }

    /// Returns the value of `webhook-signature`.
    pub(crate) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signatures: Vec<String> = self
            .0
            .iter()
            .filter_map(|key| {
                // HMAC accepts keys of any length.
                let mut mac = Hmac::<Sha256>::new_from_slice(key.expose_secret()).ok()?;
                mac.update(format!("{id}.{timestamp}.").as_bytes());
                mac.update(body);
                Some(format!(
                    "v1,{}",
                    STANDARD.encode(mac.finalize().into_bytes())
                ))
            })
            .collect();
        // Exactly one space: some verifiers fail on an empty part.
        signatures.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(text: &str) -> Result<SigningKeys, InvalidSecret> {
        SigningKeys::read(&text.to_owned().into())
    }

    /// The example of the specification's reference implementations.
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;

    #[test]
    fn the_known_vector_is_signed_alike() {
        let signed =
            keys(SECRET)
                .unwrap()
                .sign("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553, BODY);
        assert_eq!(signed, SIGNATURE);
    }

    #[test]
    fn each_secret_signs_in_the_order_of_the_file() {
        let other = format!("whsec_{}", STANDARD.encode([7; 32]));
        let both = keys(&format!("{other}\n\n  {SECRET}  \n")).unwrap();
        let signed = both.sign("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553, BODY);
        let parts: Vec<&str> = signed.split(' ').collect();
        assert_eq!((parts.len(), parts[1]), (2, SIGNATURE));
        assert_ne!(parts[0], SIGNATURE);
    }

    #[test]
    fn an_invalid_secret_is_reported_by_its_line_and_not_shown() {
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        let long = format!("whsec_{}", STANDARD.encode([7; 65]));
        for bad in ["hunter2", "whsec_", "whsec_hunter2!", &short, &long] {
            let error = keys(&format!("{SECRET}\n{bad}\n")).unwrap_err();
            assert_eq!(error, InvalidSecret::Line { line: 2 });
            assert!(
                !error.to_string().contains(bad.trim_start_matches("whsec_")) || bad == "whsec_"
            );
        }
        assert_eq!(keys(" \n").unwrap_err(), InvalidSecret::None);
        let many = vec![SECRET; 17].join("\n");
        assert_eq!(keys(&many).unwrap_err(), InvalidSecret::Many);
        let shown = format!("{:?}", keys(SECRET).unwrap());
        assert!(
            !shown.contains("C2FV") && shown.contains("REDACTED"),
            "{shown}"
        );
    }

    proptest! {
        #[test]
        fn no_file_makes_the_reader_panic(text in ".*") {
            drop(keys(&text));
        }
    }
}
