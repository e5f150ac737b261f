//! Listing tags and repositories, page by page.

use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sluice_domain::{Repository, Tag};
use url::Url;

use crate::budget::Spending;
use crate::client::{Client, limited};
use crate::error::Error;
use crate::patience::patiently;

const MAX_PAGE: usize = 8 << 20;
/// How many names a page is asked for.
const PAGE: usize = 1_000;
const MAX_PAGES: usize = 1_000;

#[derive(Deserialize)]
struct TagPage {
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct RepositoryPage {
    repositories: Option<Vec<String>>,
}

impl Client {
    /// Lists every tag of a repository; tags that break the grammar are left out.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown repository; a listing that leads elsewhere or does not end.
    pub async fn tags(&self, repository: &Repository) -> Result<Vec<Tag>, Error> {
        patiently(|| self.tags_once(repository)).await
    }

    async fn tags_once(&self, repository: &Repository) -> Result<Vec<Tag>, Error> {
        let what = repository.as_str();
        let scope = [format!("repository:{repository}:pull")];
        let mut tags = Vec::new();
        let mut next = Some(self.url(&format!("{repository}/tags/list?n={PAGE}"))?);
        for _ in 0..MAX_PAGES {
            let Some(url) = next else { return Ok(tags) };
            let (page, following): (TagPage, _) =
                self.page("list the tags of", what, &scope, &url).await?;
            let listed = page.tags.unwrap_or_default();
            tags.extend(listed.iter().filter_map(|tag| tag.parse().ok()));
            next = following;
        }
        Err(Error::untrusted(what, "its list has more than 1000 pages"))
    }

    /// Lists the repositories of the registry that `take` wants; names that break the grammar are left out.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Refused`] where the registry has no such listing, or not for this account.
    pub async fn repositories(
        &self,
        take: impl Fn(&Repository) -> bool,
    ) -> Result<Vec<Repository>, Error> {
        let (mut found, mut after) = (Vec::new(), String::new());
        for _ in 0..MAX_PAGES {
            let (listed, last) = self.repositories_after(&after, PAGE).await?;
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
        let (page, next): (RepositoryPage, _) = self.page("list", what, &scope, &url).await?;
        let names = page.repositories.unwrap_or_default();
        // A page that does not go on would be asked for again and again.
        let last = names
            .last()
            .filter(|last| next.is_some() && last.as_str() != after);
        let last = last.cloned();
        Ok((
            names.iter().filter_map(|name| name.parse().ok()).collect(),
            last,
        ))
    }

    /// Fetches one page of a list, and says where the next one is.
    async fn page<T: DeserializeOwned>(
        &self,
        action: &'static str,
        what: &str,
        scope: &[String],
        url: &Url,
    ) -> Result<(T, Option<Url>), Error> {
        self.may_ask(Spending::Listing).await?;
        let answer = self
            .send(action, what, scope, |http| http.get(url.clone()))
            .await?;
        if answer.status() == 404 {
            return Err(Error::NotFound {
                what: what.to_owned(),
            });
        }
        let answer = self.accept(action, what, answer, &[200]).await;
        let answer = self.heeded(Spending::Listing, answer).await?;
        let next = self.next_page(what, url, answer.headers())?;
        let body = limited(what, answer, MAX_PAGE).await?;
        let page = serde_json::from_slice(&body).map_err(|error| {
            Error::untrusted(what, format!("its list is not understood: {error}"))
        })?;
        Ok((page, next))
    }

    /// Returns where the next page of a list is, which must be at the same origin.
    pub(crate) fn next_page(
        &self,
        what: &str,
        current: &Url,
        headers: &HeaderMap,
    ) -> Result<Option<Url>, Error> {
        let refuse = |reason: &str| Error::untrusted(what, reason);
        let Some(link) = headers.get(LINK) else {
            return Ok(None);
        };
        let link = link
            .to_str()
            .map_err(|_| refuse("its link to the next page is not text"))?;
        let Some(target) = link
            .split(',')
            .find(|part| part.contains("rel=\"next\"") || part.contains("rel=next"))
        else {
            return Ok(None);
        };
        let target = target
            .trim()
            .strip_prefix('<')
            .and_then(|rest| rest.split_once('>'));
        let (target, _) =
            target.ok_or_else(|| refuse("its link to the next page is not understood"))?;
        let url = current
            .join(target)
            .map_err(|_| refuse("its link to the next page is no address"))?;
        if !self.is_own(&url) {
            return Err(refuse("its link to the next page leads to another host"));
        }
        Ok(Some(url))
    }
}
