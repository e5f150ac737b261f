//! Tokens of subjects and bucket keys: characters that NATS does not allow are written `=XX`.

use sluice_domain::{RegistryHost, Repository};

/// The subjects of all facts.
pub const FACTS: &str = "sluice.v1.>";

/// The token of an empty text: no token of a subject may be empty.
const EMPTY: &str = "=";

/// Encodes a text as one token: characters other than `[A-Za-z0-9_/-]` become `=XX`.
#[must_use]
pub fn encode(text: &str) -> String {
    if text.is_empty() {
        return EMPTY.to_owned();
    }
    let mut token = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/' | b'-') {
            token.push(char::from(byte));
        } else {
            token.push_str(&format!("={byte:02X}"));
        }
    }
    token
}

/// Decodes a token, unless [`encode`] did not write it.
#[must_use]
pub fn decode(token: &str) -> Option<String> {
    if token == EMPTY {
        return Some(String::new());
    }
    let mut bytes = token.bytes();
    let mut text = Vec::with_capacity(token.len());
    while let Some(byte) = bytes.next() {
        if byte == b'=' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            text.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            text.push(byte);
        }
    }
    String::from_utf8(text).ok()
}

/// Returns the last two tokens of a fact about a repository: organisation and name.
#[must_use]
pub fn of_repository(repository: &Repository) -> String {
    format!(
        "{}.{}",
        encode(repository.organisation().unwrap_or("_")),
        encode(repository.name())
    )
}

/// Returns the last two tokens of a fact about a repository that may be in a remote registry: its host takes the place of
/// the organisation, so that no subscriber confuses it with a local repository.
#[must_use]
pub fn of_target(registry: Option<&RegistryHost>, repository: &Repository) -> String {
    match registry {
        Some(registry) => format!(
            "{}.{}",
            encode(registry.as_str()),
            encode(repository.as_str())
        ),
        None => of_repository(repository),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tokens_stay_readable() {
        assert_eq!(encode("team/app_1.27:x"), "team/app_1=2E27=3Ax");
        assert_eq!(
            of_repository(&"official/alpine".parse().unwrap()),
            "official.alpine"
        );
        assert_eq!(of_repository(&"alpine".parse().unwrap()), "_.alpine");
        let (registry, repository) = ("a.b".parse().unwrap(), "team/app".parse().unwrap());
        assert_eq!(of_target(Some(&registry), &repository), "a=2Eb.team/app");
        for bad in ["=2", "=zz", "=FF"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn tokens_read_back(original in ".*") {
            let token = encode(&original);
            prop_assert!(!token.is_empty() && !token.contains(['.', '*', '>', ' ']));
            prop_assert_eq!(decode(&token), Some(original));
        }
    }
}
