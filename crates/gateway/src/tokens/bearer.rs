//! Reads `Authorization` headers, and compares secrets in constant time.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Says whether a text is the secret. Digests are compared, so that the time does not depend on the length either.
pub(crate) fn is_same(secret: &SecretString, text: &str) -> bool {
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    let (secret, text) = (digest(secret.expose_secret()), digest(text));
    secret.as_slice().ct_eq(text.as_slice()).into()
}

/// Says whether a request has the secret as its bearer token.
pub(crate) fn is_bearer(headers: &HeaderMap, secret: &SecretString) -> bool {
    authorization(headers, "bearer").is_some_and(|token| is_same(secret, token))
}

/// Returns the credentials in `Authorization` if they have this scheme.
pub(crate) fn authorization<'h>(headers: &'h HeaderMap, scheme: &str) -> Option<&'h str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (named, rest) = value.split_once(' ')?;
    named.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_itself_is_the_secret() {
        let secret = SecretString::from("hunter2");
        assert!(is_same(&secret, "hunter2"));
        for wrong in ["", "hunter", "hunter22", "Hunter2"] {
            assert!(!is_same(&secret, wrong), "{wrong}");
        }
    }

    #[test]
    fn a_bearer_token_is_read_in_any_case_of_its_scheme() {
        let secret = SecretString::from("hunter2");
        for (value, is) in [
            ("Bearer hunter2", true),
            ("bearer  hunter2", true),
            ("Basic hunter2", false),
            ("hunter2", false),
            ("Bearer", false),
            ("Bearer hunter3", false),
        ] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]);
            assert_eq!(is_bearer(&headers, &secret), is, "{value}");
        }
        assert!(!is_bearer(&HeaderMap::new(), &secret));
    }
}
