//! Listing tags and repositories, page by page.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use reqwest::StatusCode;
use sluice_domain::{Repository, Tag};
use url::Url;

use crate::answers::{self, Pages};
use crate::budget::Spending;
use crate::client::{Client, limited};
use crate::error::Error;
use crate::retry::with_retries;

const MAX_PAGE: usize = 8 << 20;
/// How many names a page is asked for.
const PAGE: usize = 1_000;

impl Client {
    /// Lists every tag of a repository; tags that break the grammar are left out.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown repository; a listing that leads elsewhere or does not end.
    pub async fn tags(&self, repository: &Repository) -> Result<Vec<Tag>, Error> {
        with_retries(|| self.tags_once(repository)).await
    }

    async fn tags_once(&self, repository: &Repository) -> Result<Vec<Tag>, Error> {
        let what = repository.as_str();
        let scope = [format!("repository:{repository}:pull")];
        let refuse = |reason| Error::untrusted(what, reason);
        let (mut tags, mut pages) = (Vec::new(), Pages::default());
        let mut next = Some(self.url(&format!("{repository}/tags/list?n={PAGE}"))?);
        while let Some(url) = next {
            pages.enter(&url).map_err(refuse)?;
            let (page, following) = self.page("list the tags of", what, &scope, &url).await?;
            pages.read(page.len()).map_err(refuse)?;
            tags.extend(answers::tags(&page).map_err(not_understood(what))?);
            next = following;
        }
        Ok(tags)
    }

    /// Lists the repositories of the registry that `take` wants; names that break the grammar are left out.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Refused`] where the registry has no such listing, or not for this account.
    pub async fn repositories(
        &self,
        take: impl Fn(&Repository) -> bool,
    ) -> Result<Vec<Repository>, Error> {
        let (mut found, mut after, mut pages) = (Vec::new(), String::new(), Pages::default());
        for _ in 0..Pages::MOST {
            let (listed, last) = self.repositories_after(&after, PAGE).await?;
            let bytes = listed.iter().map(|name| name.as_str().len()).sum();
            let refuse = |reason| Error::untrusted("_catalog", reason);
            pages.read(bytes).map_err(refuse)?;
            found.extend(listed.into_iter().filter(&take));
            match last {
                Some(last) => after = last,
                None => return Ok(found),
            }
        }
        Err(Error::untrusted(
            "_catalog",
            "its list has more than 1000 pages",
        ))
    }

    /// Lists the repositories after a name, at most about `limit`, and says after which name to go on.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a registry that does not list its repositories.
    pub async fn repositories_after(
        &self,
        after: &str,
        limit: usize,
    ) -> Result<(Vec<Repository>, Option<String>), Error> {
        let what = "_catalog";
        let scope = ["registry:catalog:*".to_owned()];
        let mut url = self.url(what)?;
        url.query_pairs_mut().append_pair("n", &limit.to_string());
        if !after.is_empty() {
            url.query_pairs_mut().append_pair("last", after);
        }
        let (page, next) = self.page("list", what, &scope, &url).await?;
        let (found, last) = answers::repositories(&page).map_err(not_understood(what))?;
        // A page that does not go on would be asked for again and again.
        let last = last.filter(|last| next.is_some() && last.as_str() != after);
        Ok((found, last))
    }

    /// Fetches one page of a list, and says where the next one is.
    async fn page(
        &self,
        action: &'static str,
        what: &str,
        scope: &[String],
        url: &Url,
    ) -> Result<(Bytes, Option<Url>), Error> {
        self.may_ask(Spending::Listing).await?;
        let refuses_size = &self.shared.common.refuses_page_size;
        let list = |url: Url| self.send(action, what, scope, move |http| http.get(url.clone()));
        let (own, known) = (without_size(url), refuses_size.load(Ordering::Relaxed));
        let first = own.clone().filter(|_| known);
        let mut answer = list(first.unwrap_or_else(|| url.clone())).await?;
        if let Some(own) = own.filter(|_| !known && may_refuse_size(answer.status())) {
            answer = list(own).await?;
            if answer.status() == 200 {
                refuses_size.store(true, Ordering::Relaxed);
            }
        }
        if answer.status() == 404 {
            return Err(Error::NotFound {
                what: what.to_owned(),
            });
        }
        let answer = self.accept(action, what, answer, &[200]).await;
        let answer = self.heeded(Spending::Listing, answer).await?;
        let next = answers::next_page(url, answer.headers());
        let next = next.map_err(|reason| Error::untrusted(what, reason))?;
        let page = limited(what, answer, MAX_PAGE).await?;
        Ok((page, next))
    }
}

/// Returns the address of a page whose length the registry chooses, if it does not already.
fn without_size(url: &Url) -> Option<Url> {
    let is_size = |name: &str| name == "n";
    url.query_pairs().find(|(name, _)| is_size(name))?;
    let kept = url.query_pairs().filter(|(name, _)| !is_size(name));
    let mut own = url.clone();
    own.query_pairs_mut().clear().extend_pairs(kept);
    if own.query() == Some("") {
        own.set_query(None);
    }
    Some(own)
}

/// Says whether a registry may refuse a list for the length of the page, which some limit to 100 names.
fn may_refuse_size(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 404 | 408 | 429)
}

fn not_understood(what: &str) -> impl FnOnce(serde_json::Error) -> Error {
    move |error| Error::untrusted(what, format!("its list is not understood: {error}"))
}
