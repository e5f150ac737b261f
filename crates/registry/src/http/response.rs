//! Strict parsers of headers and small bodies. Pure: no I/O and no state.
//!
//! Their errors quote nothing of the response, which may contain secrets.

pub(crate) mod body;

use std::collections::HashSet;
use std::time::Duration;

use http_auth::parser::ChallengeParser;
use reqwest::header::{
    CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LINK, LOCATION,
    WWW_AUTHENTICATE,
};
use serde::Deserialize;
use sluice_domain::{Digest, Repository, Tag};
use url::Url;

/// Why a part of a response is refused.
pub(crate) type Reason = &'static str;

/// The authentication that a registry asks for with status 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// A user name and a password.
    Basic,
    /// A token.
    Bearer {
        /// The URL of the token issuer; not checked yet.
        realm: String,
        /// The name of the registry at the issuer.
        service: Option<String>,
    },
}

/// Parses `WWW-Authenticate`; a token is preferred to a password.
///
/// # Errors
/// Headers that are not text, or that ask for neither.
pub fn parse_challenge(headers: &HeaderMap) -> Result<Challenge, Reason> {
    let mut found = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let text = value.to_str().map_err(|_| "its challenge is not text")?;
        for challenge in ChallengeParser::new(text).filter_map(Result::ok) {
            let parameter = |name: &str| {
                let found = challenge
                    .params
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                found = Some(Challenge::Bearer {
                    realm: parameter("realm").ok_or("its challenge has no realm")?,
                    service: parameter("service"),
                });
            } else if challenge.scheme.eq_ignore_ascii_case("basic") && found.is_none() {
                found = Some(Challenge::Basic);
            }
        }
    }
    found.ok_or("it answered 401 without a challenge for a token or a password")
}

#[derive(Deserialize)]
struct TokenResponse {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// Parses the response of a token issuer: the token and its lifetime, between a minute and a day.
///
/// # Errors
/// A response without a token; the error of the parser is left out, since it could quote one.
pub fn parse_token(body: &[u8]) -> Result<(String, Duration), Reason> {
    let response: TokenResponse = serde_json::from_slice(body)
        .map_err(|_| "the response of its token issuer is not understood")?;
    let text = [response.token, response.access_token]
        .into_iter()
        .flatten()
        .find(|text| !text.is_empty())
        .ok_or("the response of its token issuer has no token")?;
    // The specification's default and minimum is 60 s.
    let lifetime = response.expires_in.unwrap_or(60).clamp(60, 86_400);
    Ok((text, Duration::from_secs(lifetime)))
}

#[derive(Deserialize)]
struct TagPage {
    tags: Option<Vec<String>>,
}

/// Parses a page of tags; invalid names are left out.
///
/// # Errors
/// A body that is no such page.
pub fn parse_tags(body: &[u8]) -> Result<Vec<Tag>, serde_json::Error> {
    let page: TagPage = serde_json::from_slice(body)?;
    let listed = page.tags.unwrap_or_default();
    Ok(listed.iter().filter_map(|tag| tag.parse().ok()).collect())
}

#[derive(Deserialize)]
struct RepositoryPage {
    repositories: Option<Vec<String>>,
}

/// Parses a page of repositories and returns the last name on it too; invalid names are left out.
///
/// # Errors
/// A body that is no such page.
pub fn parse_repositories(
    body: &[u8],
) -> Result<(Vec<Repository>, Option<String>), serde_json::Error> {
    let page: RepositoryPage = serde_json::from_slice(body)?;
    let mut names = page.repositories.unwrap_or_default();
    let found = names.iter().filter_map(|name| name.parse().ok()).collect();
    Ok((found, names.pop()))
}

/// Parses the link to the next page of a list, which must be on the same origin as this one.
///
/// # Errors
/// A link to another origin, or that is not understood.
pub fn parse_next_page(current: &Url, headers: &HeaderMap) -> Result<Option<Url>, Reason> {
    for link in headers.get_all(LINK) {
        let text = link
            .to_str()
            .map_err(|_| "its link to the next page is not text")?;
        let Some(target) = next_link(text)? else {
            continue;
        };
        let url = current
            .join(target)
            .map_err(|_| "its link to the next page is no URL")?;
        if url.origin() != current.origin() {
            return Err("its link to the next page leads to another host");
        }
        if !(url.username().is_empty() && url.password().is_none()) {
            return Err("its link to the next page names a user");
        }
        return Ok(Some(url));
    }
    Ok(None)
}

/// Finds the target with the relation `next` in `<target>; rel="next", <target>; rel=prev`.
fn next_link(mut text: &str) -> Result<Option<&str>, Reason> {
    const UNCLEAR: Reason = "its link to the next page is not understood";
    loop {
        text = text.trim_start_matches([' ', '\t', ',']);
        if text.is_empty() {
            return Ok(None);
        }
        let (target, rest) = text
            .strip_prefix('<')
            .and_then(|rest| rest.split_once('>'))
            .ok_or(UNCLEAR)?;
        let mut is_quoted = false;
        let end = rest.find(|sign: char| {
            is_quoted ^= sign == '"';
            sign == ',' && !is_quoted
        });
        let (parameters, following) = rest
            .split_at_checked(end.unwrap_or(rest.len()))
            .ok_or(UNCLEAR)?;
        let is_next = parameters.split(';').any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let mut relations = value.trim().trim_matches('"').split_ascii_whitespace();
            name.trim().eq_ignore_ascii_case("rel")
                && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Ok(Some(target));
        }
        text = following;
    }
}

/// The pages of a list that were read, so that a list with a loop or without an end is refused.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    seen: HashSet<Url>,
    bytes: usize,
}

impl Pages {
    /// How many pages of one list are read.
    pub(crate) const MAX_PAGES: usize = 1_000;
    /// The most bytes of all pages of one list.
    const MAX_BYTES: usize = 64 << 20;

    /// Records a page before it is requested.
    pub(crate) fn enter(&mut self, url: &Url) -> Result<(), Reason> {
        if self.seen.len() >= Self::MAX_PAGES {
            return Err("its list has more than 1000 pages");
        }
        if !self.seen.insert(url.clone()) {
            return Err("its list leads back to one of its pages");
        }
        Ok(())
    }

    /// Records the size of a page.
    pub(crate) fn add_bytes(&mut self, bytes: usize) -> Result<(), Reason> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > Self::MAX_BYTES {
            return Err("the pages of its list are larger than 64 MiB together");
        }
        Ok(())
    }
}

/// Collects headers; invalid ones are left out.
#[must_use]
pub fn collect_headers<'a>(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> HeaderMap {
    let made = pairs.filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name).ok()?;
        Some((name, HeaderValue::from_bytes(value).ok()?))
    });
    let mut headers = HeaderMap::new();
    for (name, value) in made {
        headers.append(name, value);
    }
    headers
}

/// Parses the target of a redirect or an upload.
///
/// # Errors
/// A target that is no HTTP URL, or contains a user name.
pub fn parse_location(current: &Url, headers: &HeaderMap) -> Result<Url, Reason> {
    let value = headers
        .get(LOCATION)
        .ok_or("the registry sent no `Location`")?;
    let text = value.to_str().map_err(|_| "its `Location` is not text")?;
    let url = current.join(text).map_err(|_| "its `Location` is no URL")?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("its `Location` is no HTTP URL");
    }
    if !(url.username().is_empty() && url.password().is_none()) {
        return Err("its `Location` contains a user name");
    }
    Ok(url)
}

/// Parses the start of `Content-Range: bytes 5-9/10`, if the range reaches to the end of content of this size.
#[must_use]
pub fn parse_range_start(headers: &HeaderMap, size: u64) -> Option<u64> {
    range_start(headers.get(CONTENT_RANGE)?.to_str().ok()?, size)
}

fn range_start(text: &str, size: u64) -> Option<u64> {
    let (range, whole) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let is_rest = first <= last && last.checked_add(1) == Some(size);
    (is_rest && (whole == "*" || whole.parse() == Ok(size))).then_some(first)
}

/// Parses the media type without its parameters; empty if there is none.
#[must_use]
pub fn parse_media_type(headers: &HeaderMap) -> String {
    let text = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_owned()
}

/// Parses `Docker-Content-Digest`.
///
/// # Errors
/// A value that is no sha256 digest.
pub fn parse_digest(headers: &HeaderMap) -> Result<Option<Digest>, Reason> {
    let Some(value) = headers.get("docker-content-digest") else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    text.parse()
        .map(Some)
        .map_err(|_| "its `Docker-Content-Digest` is no sha256 digest")
}

#[cfg(test)]
mod tests;
