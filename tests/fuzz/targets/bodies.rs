//! Small bodies: token answers, lists of tags and repositories, and Docker's `config.json`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_registry::parsers::{has_login, parse_repositories, parse_tags, parse_token};

fuzz_target!(|data: &[u8]| {
    if let Ok((token, lifetime)) = parse_token(data) {
        assert!(!token.is_empty() && (60..=86_400).contains(&lifetime.as_secs()));
    }
    if let Ok(tags) = parse_tags(data) {
        assert!(
            tags.iter()
                .all(|tag| !tag.as_str().contains(['/', '%', '?', '#', '\\']))
        );
    }
    if let Ok((found, _)) = parse_repositories(data) {
        assert!(
            found
                .iter()
                .all(|name| !name.as_str().contains("..") && !name.as_str().starts_with('/'))
        );
    }
    let _ = has_login(data, &"registry.example:5000".parse().unwrap());
    let _ = has_login(data, &"docker.io".parse().unwrap());
});
