//! Listing tags, page by page.

use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;
use sluice_domain::{Repository, Tag};
use url::Url;

use crate::client::{Client, limited};
use crate::error::Error;
use crate::patience::patiently;

const MAX_PAGE: usize = 8 << 20;
const MAX_PAGES: usize = 1_000;

#[derive(Deserialize)]
struct Page {
    tags: Option<Vec<String>>,
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
        let mut next = Some(self.url(&format!("{repository}/tags/list?n=1000"))?);
        let mut tags = Vec::new();
        for _ in 0..MAX_PAGES {
            let Some(url) = next else { return Ok(tags) };
            let answer = self
                .send("list the tags of", what, &scope, |http| {
                    http.get(url.clone())
                })
                .await?;
            if answer.status() == 404 {
                return Err(Error::NotFound {
                    what: what.to_owned(),
                });
            }
            let answer = self
                .accept("list the tags of", what, answer, &[200])
                .await?;
            next = self.next_page(what, &url, answer.headers())?;
            let body = limited(what, answer, MAX_PAGE).await?;
            let page: Page = serde_json::from_slice(&body).map_err(|error| {
                Error::untrusted(what, format!("its tag list is not understood: {error}"))
            })?;
            tags.extend(
                page.tags
                    .unwrap_or_default()
                    .iter()
                    .filter_map(|tag| tag.parse().ok()),
            );
        }
        Err(Error::untrusted(
            what,
            "its tag list has more than 1000 pages",
        ))
    }

    fn next_page(
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
