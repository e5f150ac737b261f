//! Headers of registries and token issuers: one a line, as `name: value`.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use sluice_registry::parsers::{
    Challenge, collect_headers, parse_challenge, parse_digest, parse_location, parse_media_type,
    parse_next_page, parse_range_start, quota_until, retry_after,
};
use sluice_registry::{Endpoint, RateLimit};

const DAY: Duration = Duration::from_secs(86_400);

fuzz_target!(|data: &[u8]| {
    let lines = data.split(|byte| *byte == b'\n');
    let pairs = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    });
    let headers = collect_headers(pairs);
    let host = "registry.example:5000".parse().unwrap();
    let here = Endpoint::of(&host, false)
        .unwrap()
        .base
        .join("/v2/a/b/tags/list")
        .unwrap();
    let now = sluice_domain::now();
    if let Ok(Some(next)) = parse_next_page(&here, &headers) {
        assert!(next.origin() == here.origin() && next.username().is_empty());
    }
    if let Ok(place) = parse_location(&here, &headers) {
        assert!(matches!(place.scheme(), "http" | "https") && place.has_host());
        assert!(place.username().is_empty() && place.password().is_none());
    }
    if let Ok(Challenge::Bearer { realm, .. }) = parse_challenge(&headers) {
        assert!(realm.len() <= data.len());
    }
    let wait = retry_after(&headers, now);
    let limit = RateLimit::read(&headers);
    assert!(wait.is_none_or(|wait| wait <= DAY));
    assert!(limit.is_none_or(|limit| limit.window <= DAY));
    let until = quota_until(wait, limit, now);
    assert!(until >= now - Duration::from_secs(1) && until <= now + DAY);
    for size in [0, 10, u64::MAX] {
        assert!(parse_range_start(&headers, size).is_none_or(|first| first < size));
    }
    assert!(parse_media_type(&headers).len() <= data.len());
    let _ = parse_digest(&headers);
});
