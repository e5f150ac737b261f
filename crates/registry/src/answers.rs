//! What peers say in headers and small bodies, read strictly. Pure: no request is made here, and nothing is remembered.
//!
//! The reasons name what is wrong and quote nothing, since what was said may be secret.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, Utc};
use http_auth::parser::ChallengeParser;
use reqwest::header::{
    CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LINK, LOCATION, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use serde::Deserialize;
use sluice_domain::{Digest, Repository, Tag};
use url::Url;

use crate::rate::RateLimit;

pub use crate::docker::has_login as docker_login;

/// The longest wait that a registry may ask for, and the longest window of a quota.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// How long a used-up quota is waited for where the registry does not say it.
const QUOTA_WAIT: Duration = Duration::from_secs(300);

/// Why something that a peer said is not used.
pub type Reason = &'static str;

/// What a registry asks for when it refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// A user name and a password.
    Basic,
    /// A token.
    Bearer {
        /// Where it is issued; not checked yet.
        realm: String,
        /// What the registry calls itself there.
        service: Option<String>,
    },
}

/// Reads how a registry wants to know who asks; a token comes before a password.
///
/// # Errors
/// Headers that are not text, or that ask for neither.
pub fn challenge(headers: &HeaderMap) -> Result<Challenge, Reason> {
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
    found.ok_or("it refuses without saying how to authenticate")
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// Reads a token and for how long it is good, between a minute and a day.
///
/// # Errors
/// An answer without a token; the error of the parser is left out, since it could quote one.
pub fn token(body: &[u8]) -> Result<(String, Duration), Reason> {
    let answer: TokenAnswer =
        serde_json::from_slice(body).map_err(|_| "its token answer is not understood")?;
    let text = [answer.token, answer.access_token]
        .into_iter()
        .flatten()
        .find(|text| !text.is_empty())
        .ok_or("its token answer has no token")?;
    // The specification's default and minimum is 60 s.
    let lifetime = answer.expires_in.unwrap_or(60).clamp(60, 86_400);
    Ok((text, Duration::from_secs(lifetime)))
}

#[derive(Deserialize)]
struct TagPage {
    tags: Option<Vec<String>>,
}

/// Reads a page of tags; those that break the grammar are left out.
///
/// # Errors
/// What is no such page.
pub fn tags(body: &[u8]) -> Result<Vec<Tag>, serde_json::Error> {
    let page: TagPage = serde_json::from_slice(body)?;
    let listed = page.tags.unwrap_or_default();
    Ok(listed.iter().filter_map(|tag| tag.parse().ok()).collect())
}

#[derive(Deserialize)]
struct RepositoryPage {
    repositories: Option<Vec<String>>,
}

/// Reads a page of repositories and the last name on it; names that break the grammar are left out.
///
/// # Errors
/// What is no such page.
pub fn repositories(body: &[u8]) -> Result<(Vec<Repository>, Option<String>), serde_json::Error> {
    let page: RepositoryPage = serde_json::from_slice(body)?;
    let mut names = page.repositories.unwrap_or_default();
    let found = names.iter().filter_map(|name| name.parse().ok()).collect();
    Ok((found, names.pop()))
}

/// Reads where the next page of a list is, which must be on the same origin as this one.
///
/// # Errors
/// A link that leads elsewhere, or that is not understood.
pub fn next_page(current: &Url, headers: &HeaderMap) -> Result<Option<Url>, Reason> {
    for link in headers.get_all(LINK) {
        let text = link
            .to_str()
            .map_err(|_| "its link to the next page is not text")?;
        let Some(target) = next_of(text)? else {
            continue;
        };
        let url = current
            .join(target)
            .map_err(|_| "its link to the next page is no address")?;
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
fn next_of(mut text: &str) -> Result<Option<&str>, Reason> {
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

/// The pages of a list that were read, so that it cannot lead round in a circle or go on without an end.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    seen: HashSet<Url>,
    bytes: usize,
}

impl Pages {
    /// How many pages of one list are read.
    pub(crate) const MOST: usize = 1_000;
    /// The most bytes of all pages of one list.
    const MOST_BYTES: usize = 64 << 20;

    /// Takes note that a page is going to be asked for.
    pub(crate) fn enter(&mut self, url: &Url) -> Result<(), Reason> {
        if self.seen.len() >= Self::MOST {
            return Err("its list has more than 1000 pages");
        }
        if !self.seen.insert(url.clone()) {
            return Err("its list leads back to one of its pages");
        }
        Ok(())
    }

    /// Takes note of how large the page was.
    pub(crate) fn read(&mut self, bytes: usize) -> Result<(), Reason> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > Self::MOST_BYTES {
            return Err("the pages of its list are larger than 64 MiB together");
        }
        Ok(())
    }
}

/// Reads how long a registry asks to wait, in seconds or until a date; a day at most.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = DateTime::parse_from_rfc2822(text).ok()?;
            until
                .to_utc()
                .signed_duration_since(now)
                .to_std()
                .unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

/// Says from when on a quota may be there again: as the registry asks, or else when its window has let one pull pass.
#[must_use]
pub fn quota_until(
    retry_after: Option<Duration>,
    limit: Option<RateLimit>,
    now: DateTime<Utc>,
) -> DateTime<Utc> {
    let share = limit.and_then(|told| told.window.checked_div(u32::try_from(told.limit).ok()?));
    let wait = retry_after.unwrap_or_else(|| share.unwrap_or_default().max(QUOTA_WAIT));
    (now + wait).trunc_subsecs(0)
}

/// Makes headers of what a peer sent; what is none is left out.
#[must_use]
pub fn headers<'a>(pairs: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> HeaderMap {
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

/// Reads where a registry sends on to.
///
/// # Errors
/// What is no address of HTTP, or names a user there.
pub fn location(current: &Url, headers: &HeaderMap) -> Result<Url, Reason> {
    let value = headers
        .get(LOCATION)
        .ok_or("the registry does not say where to go on")?;
    let text = value
        .to_str()
        .map_err(|_| "the place to go on is not text")?;
    let url = current
        .join(text)
        .map_err(|_| "the place to go on is no address")?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("the place to go on is no address of HTTP");
    }
    if !(url.username().is_empty() && url.password().is_none()) {
        return Err("the place to go on names a user");
    }
    Ok(url)
}

/// Reads where `Content-Range: bytes 5-9/10` begins, if it goes on to the end of what has this size.
#[must_use]
pub fn rest_of(headers: &HeaderMap, size: u64) -> Option<u64> {
    range_of(headers.get(CONTENT_RANGE)?.to_str().ok()?, size)
}

fn range_of(text: &str, size: u64) -> Option<u64> {
    let (range, whole) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let is_rest = first <= last && last.checked_add(1) == Some(size);
    (is_rest && (whole == "*" || whole.parse() == Ok(size))).then_some(first)
}

/// Reads the media type, without its parameters; empty where none is told.
#[must_use]
pub fn media_type(headers: &HeaderMap) -> String {
    let text = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_owned()
}

/// Reads the digest that a registry names.
///
/// # Errors
/// What is no sha256 digest.
pub fn digest(headers: &HeaderMap) -> Result<Option<Digest>, Reason> {
    let Some(value) = headers.get("docker-content-digest") else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    text.parse()
        .map(Some)
        .map_err(|_| "the registry names something that is no sha256 digest")
}

#[cfg(test)]
mod tests;
