//! Listing tags and repositories, page by page.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use reqwest::StatusCode;
use sluice_domain::{Repository, Tag};
use url::Url;

use crate::client::Client;
use crate::error::Error;
use crate::http::rate_limit::budget::RequestKind;
use crate::http::response::body::read_body;
use crate::http::response::{Pages, parse_next_page, parse_repositories, parse_tags};
use crate::http::retry::with_retries;

/// The largest page in bytes.
const MAX_PAGE: usize = 8 << 20;
/// The page size that is requested, in names.
const PAGE_SIZE: usize = 1_000;
const CATALOG: &str = "_catalog";

impl Client {
    /// Lists all tags of a repository; invalid names are left out.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown repository.
    pub async fn list_tags(&self, repository: &Repository) -> Result<Vec<Tag>, Error> {
        with_retries(|| self.list_tags_once(repository)).await
    }

    async fn list_tags_once(&self, repository: &Repository) -> Result<Vec<Tag>, Error> {
        let object = repository.as_str();
        let scope = [format!("repository:{repository}:pull")];
        let refuse = |reason| Error::untrusted(object, reason);
        let (mut tags, mut pages) = (Vec::new(), Pages::default());
        let mut next = Some(self.url(&format!("{repository}/tags/list?n={PAGE_SIZE}"))?);
        while let Some(url) = next {
            pages.enter(&url).map_err(refuse)?;
            let (page, following) = self.page("list the tags of", object, &scope, &url).await?;
            pages.add_bytes(page.len()).map_err(refuse)?;
            tags.extend(parse_tags(&page).map_err(not_understood(object))?);
            next = following;
        }
        Ok(tags)
    }

    /// Lists the repositories of the registry that pass a filter; invalid names are left out.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::UnexpectedStatus`] if the registry has no catalogue, or not for this account.
    pub async fn list_repositories(
        &self,
        filter: impl Fn(&Repository) -> bool,
    ) -> Result<Vec<Repository>, Error> {
        let (mut found, mut after, mut pages) = (Vec::new(), String::new(), Pages::default());
        for _ in 0..Pages::MAX_PAGES {
            let (listed, last) = self.list_repositories_after(&after, PAGE_SIZE).await?;
            let bytes = listed.iter().map(|name| name.as_str().len()).sum();
            let refuse = |reason| Error::untrusted(CATALOG, reason);
            pages.add_bytes(bytes).map_err(refuse)?;
            found.extend(listed.into_iter().filter(&filter));
            match last {
                Some(last) => after = last,
                None => return Ok(found),
            }
        }
        let reason = "its list has more than 1000 pages";
        Err(Error::untrusted(CATALOG, reason))
    }

    /// Lists the repositories after a name, at most about `limit`, and returns the name after which to continue.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a registry that does not list its repositories.
    pub async fn list_repositories_after(
        &self,
        after: &str,
        limit: usize,
    ) -> Result<(Vec<Repository>, Option<String>), Error> {
        let object = CATALOG;
        let scope = ["registry:catalog:*".to_owned()];
        let mut url = self.url(object)?;
        url.query_pairs_mut().append_pair("n", &limit.to_string());
        if !after.is_empty() {
            url.query_pairs_mut().append_pair("last", after);
        }
        let (page, next) = self.page("list", object, &scope, &url).await?;
        let (found, last) = parse_repositories(&page).map_err(not_understood(object))?;
        // A list that does not advance would be requested without an end.
        let last = last.filter(|last| next.is_some() && last.as_str() != after);
        Ok((found, last))
    }

    /// Fetches one page of a list, and returns the URL of the next one.
    async fn page(
        &self,
        action: &'static str,
        object: &str,
        scope: &[String],
        url: &Url,
    ) -> Result<(Bytes, Option<Url>), Error> {
        let budget = &self.shared.connection.budget;
        budget.reserve(RequestKind::Listing, None).await?;
        let refuses_size = &self.shared.state.refuses_page_size;
        let list = |url: Url| self.send(action, object, scope, move |http| http.get(url.clone()));
        let (unsized_url, is_known) = (without_size(url), refuses_size.load(Ordering::Relaxed));
        let first = unsized_url.clone().filter(|_| is_known);
        let mut response = list(first.unwrap_or_else(|| url.clone())).await?;
        if let Some(url) = unsized_url.filter(|_| !is_known && may_refuse_size(response.status())) {
            response = list(url).await?;
            if response.status() == 200 {
                refuses_size.store(true, Ordering::Relaxed);
            }
        }
        if response.status() == 404 {
            return Err(Error::NotFound {
                object: object.to_owned(),
            });
        }
        let response = self.expect_status(action, object, response, &[200]).await;
        let response = budget
            .record_refusal(RequestKind::Listing, response)
            .await?;
        let next = parse_next_page(url, response.headers());
        let next = next.map_err(|reason| Error::untrusted(object, reason))?;
        let page = read_body(object, response, MAX_PAGE).await?;
        Ok((page, next))
    }
}

/// Returns the URL without a page size, so that the registry chooses it; none if the URL has no size.
fn without_size(url: &Url) -> Option<Url> {
    let is_size = |name: &str| name == "n";
    url.query_pairs().find(|(name, _)| is_size(name))?;
    let kept = url.query_pairs().filter(|(name, _)| !is_size(name));
    let mut unsized_url = url.clone();
    unsized_url.query_pairs_mut().clear().extend_pairs(kept);
    if unsized_url.query() == Some("") {
        unsized_url.set_query(None);
    }
    Some(unsized_url)
}

/// Returns whether a status may refuse the page size, which some registries limit to 100 names.
fn may_refuse_size(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 404 | 408 | 429)
}

fn not_understood(object: &str) -> impl FnOnce(serde_json::Error) -> Error {
    move |error| Error::untrusted(object, format!("its list is not understood: {error}"))
}
