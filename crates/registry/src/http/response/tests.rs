//! The parsers of headers and small bodies, by example and by generated input.

use std::time::Duration;

use chrono::DateTime;
use proptest::prelude::*;

use super::*;
use crate::http::rate_limit::{LONGEST_WAIT, RateLimit, quota_until, retry_after};

fn headers(name: &str, values: &[&[u8]]) -> HeaderMap {
    collect_headers(values.iter().map(|value| (name.as_bytes(), *value)))
}

fn here() -> Url {
    "https://registry.example:5000/v2/a/b/tags/list?n=1"
        .parse()
        .unwrap()
}

#[test]
fn only_the_rest_of_the_right_size_is_taken() {
    for (text, first) in [
        ("bytes 5-9/10", Some(5)),
        ("bytes 5-9/*", Some(5)),
        ("bytes 5-8/10", None),
        ("bytes 5-9/11", None),
        ("bytes 5-10/10", None),
        ("bytes 9-5/10", None),
        ("bytes */10", None),
        ("bytes 5-18446744073709551615/10", None),
        ("items 5-9/10", None),
        ("", None),
    ] {
        assert_eq!(range_start(text, 10), first, "{text}");
    }
}

#[test]
fn the_next_page_is_found_in_every_form_of_the_header() {
    for (link, next) in [
        ("</v2/x?last=1>; rel=\"next\"", Some("/v2/x?last=1")),
        ("</v2/x?last=1>;rel=next", Some("/v2/x?last=1")),
        (
            "<?last=a,b>; rel=\"next\"",
            Some("/v2/a/b/tags/list?last=a,b"),
        ),
        (
            "</p>; rel=prev, </n>; title=\"a, b\"; REL=\"last next\"",
            Some("/n"),
        ),
        ("</p>; rel=previous; title=\"rel=next\"", None),
        ("</p>; rel=\"nextdoor\"", None),
        ("", None),
    ] {
        let found = parse_next_page(&here(), &headers("link", &[link.as_bytes()])).unwrap();
        let found = found.map(|url| url[url::Position::BeforePath..].to_owned());
        assert_eq!(found.as_deref(), next, "{link}");
    }
    let second = headers("link", &[b"</p>; rel=prev", b"</n>; rel=next"]);
    assert_eq!(
        parse_next_page(&here(), &second).unwrap().unwrap().path(),
        "/n"
    );
    for link in [
        "<https://registry.example/v2/x>; rel=next",
        "<http://registry.example:5000/v2/x>; rel=next",
        "<//other.example/v2/x>; rel=next",
        "<https://user:word@registry.example:5000/v2/x>; rel=next",
        "<data:,x>; rel=next",
        "</v2/x; rel=next",
        "/v2/x; rel=next",
    ] {
        let refused = parse_next_page(&here(), &headers("link", &[link.as_bytes()]));
        assert!(refused.is_err(), "{link}: {refused:?}");
    }
}

#[test]
fn a_place_to_go_on_is_an_address_of_http_without_a_user() {
    for (place, meant) in [
        ("/x?y=z", "https://registry.example:5000/x?y=z"),
        ("u", "https://registry.example:5000/v2/a/b/tags/u"),
        ("//cdn.example/x", "https://cdn.example/x"),
        ("http://cdn.example/x", "http://cdn.example/x"),
    ] {
        let found = parse_location(&here(), &headers("location", &[place.as_bytes()]));
        assert_eq!(found.unwrap().as_str(), meant);
    }
    for place in [
        "file:///etc/passwd",
        "gopher://x/",
        "data:,x",
        "https://user@registry.example:5000/",
        "https://:word@cdn.example/",
        "http://",
    ] {
        let refused = parse_location(&here(), &headers("location", &[place.as_bytes()]));
        assert!(refused.is_err(), "{place}: {refused:?}");
    }
    assert!(parse_location(&here(), &HeaderMap::new()).is_err());
}

#[test]
fn a_wait_is_never_longer_than_a_day() {
    let now = DateTime::UNIX_EPOCH;
    for (text, wait) in [
        ("7", Some(7)),
        ("18446744073709551615", Some(86_400)),
        ("99999999999999999999", Some(86_400)),
        ("Thu, 01 Jan 1970 00:01:00 GMT", Some(60)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", Some(86_400)),
        ("Sun, 06 Nov 1960 08:49:37 GMT", Some(0)),
        ("soon", None),
    ] {
        let read = retry_after(&headers("retry-after", &[text.as_bytes()]), now);
        assert_eq!(read, wait.map(Duration::from_secs), "{text}");
    }
}

#[test]
fn a_list_that_leads_in_a_circle_or_never_ends_is_left() {
    let mut pages = Pages::default();
    pages.enter(&here()).unwrap();
    assert!(
        pages
            .enter(&here())
            .unwrap_err()
            .contains("one of its pages")
    );
    let mut pages = Pages::default();
    for number in 0..Pages::MAX_PAGES {
        pages
            .enter(&here().join(&number.to_string()).unwrap())
            .unwrap();
    }
    assert!(pages.enter(&here()).unwrap_err().contains("1000 pages"));
    let mut pages = Pages::default();
    for _ in 0..8 {
        pages.add_bytes(8 << 20).unwrap();
    }
    assert!(pages.add_bytes(1).unwrap_err().contains("64 MiB"));
}

/// A header as a peer could send it, most often one that is nearly right.
fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..64),
        "[ -~\t]{0,80}".prop_map(String::into_bytes),
        "(<[a-z:/@.?=&,]{0,20}>?;? ?rel=\"?(next|prev)?\"?,? ?){0,3}".prop_map(String::into_bytes),
        "(Bearer|Basic) ?(realm=\"?[ -~]{0,20}\"?,?){0,3}(service=[a-z\"\\\\,]{0,9})?"
            .prop_map(String::into_bytes),
        "(https?|file|data)?:?/{0,3}[a-z@:.%\\[\\]]{0,20}/?[ -~]{0,9}".prop_map(String::into_bytes),
        "bytes [0-9]{0,20}-[0-9]{0,20}/[0-9*]{0,20}".prop_map(String::into_bytes),
        "[0-9]{0,21};?w?=?[0-9]{0,21}".prop_map(String::into_bytes),
        "[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{1,6} [0-9:]{8} (GMT|[+-][0-9]{4})"
            .prop_map(String::into_bytes),
    ]
}

proptest! {
    #[test]
    fn whatever_a_header_says_the_credential_stays_on_its_origin(values in prop::collection::vec(value(), 1..3)) {
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        if let Ok(Some(next)) = parse_next_page(&here(), &headers("link", &values)) {
            prop_assert_eq!(next.origin(), here().origin());
            prop_assert!(next.username().is_empty() && next.password().is_none());
        }
        if let Ok(place) = parse_location(&here(), &headers("location", &values)) {
            prop_assert!(matches!(place.scheme(), "http" | "https"));
            prop_assert!(place.has_host() && place.username().is_empty() && place.password().is_none());
        }
        if let Ok(Challenge::Bearer { realm, .. }) = parse_challenge(&headers("www-authenticate", &values)) {
            let length: usize = values.iter().map(|value| value.len()).sum();
            prop_assert!(realm.len() <= length);
        }
    }

    #[test]
    fn no_number_of_a_peer_is_too_large_to_reckon_with(values in prop::collection::vec(value(), 2..3), size in any::<u64>()) {
        let now = sluice_domain::now();
        let waits = headers("retry-after", &[&values[0]]);
        if let Some(wait) = retry_after(&waits, now) {
            prop_assert!(wait <= LONGEST_WAIT);
        }
        let mut limits = headers("ratelimit-limit", &[&values[0]]);
        limits.extend(headers("ratelimit-remaining", &[&values[1]]));
        let limit = RateLimit::read(&limits);
        prop_assert!(limit.is_none_or(|limit| limit.window <= LONGEST_WAIT));
        let until = quota_until(None, limit, now);
        prop_assert!(until > now && until <= now + LONGEST_WAIT);
        if let Some(first) = parse_range_start(&headers("content-range", &[&values[0]]), size) {
            prop_assert!(first < size);
        }
        if let Ok(Some(named)) = parse_digest(&headers("docker-content-digest", &[&values[0]])) {
            prop_assert_eq!(named.as_str().as_bytes(), &values[0]);
        }
        prop_assert!(parse_media_type(&headers("content-type", &[&values[0]])).len() <= values[0].len());
    }

    #[test]
    fn only_tags_and_repositories_of_the_grammar_come_out_of_a_list(names in prop::collection::vec(".{0,12}|[a-z/.]{0,9}", 0..9)) {
        let page = serde_json::json!({ "tags": names, "repositories": names }).to_string();
        let (read, (found, last)) = (parse_tags(page.as_bytes()).unwrap(), parse_repositories(page.as_bytes()).unwrap());
        for tag in &read {
            prop_assert!(names.contains(&tag.to_string()) && !tag.as_str().contains(['/', '?', '%', '\\']));
        }
        for repository in &found {
            let url = here().join(&format!("/v2/{repository}/tags/list")).unwrap();
            prop_assert_eq!(url.path(), format!("/v2/{repository}/tags/list"));
        }
        prop_assert_eq!(last.as_ref(), names.last());
    }

    #[test]
    fn no_body_makes_a_parser_of_answers_panic(body in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        "(\\{|\\}|\\[|\\]|,|:|\"(token|access_token|expires_in|tags|repositories)\"|\"[a-z]{0,3}\"|-?[0-9]{1,20}|null){0,30}".prop_map(String::into_bytes),
        "\\{\"token\":\"[ -~]{0,9}\",\"expires_in\":[0-9]{1,20}\\}".prop_map(String::into_bytes),
    ]) {
        if let Ok((text, lifetime)) = parse_token(&body) {
            prop_assert!(!text.is_empty() && (60..=86_400).contains(&lifetime.as_secs()));
        }
        drop(parse_tags(&body));
        drop(parse_repositories(&body));
    }
}
