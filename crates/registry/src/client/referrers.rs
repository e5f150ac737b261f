//! The referrers of a manifest as the registry lists them (OCI distribution specification 1.1).
//!
//! The list is a hint: each referrer is fetched by digest and has to name its subject itself.

use reqwest::header::ACCEPT;
use sluice_domain::{Digest, Repository};

use crate::client::{Client, object_name};
use crate::content::manifest::descriptor::Descriptor;
use crate::content::manifest::{Manifest, OCI_INDEX};
use crate::error::Error;
use crate::http::rate_limit::budget::RequestKind;
use crate::http::response::body::read_body;
use crate::http::response::{parse_media_type, parse_next_page};
use crate::http::retry::with_retries;

/// The largest page in bytes.
const MAX_PAGE: usize = 4 << 20;
const MAX_PAGES: usize = 16;
/// The most referrers of one manifest that are read.
const MAX_REFERRERS: usize = 256;

impl Client {
    /// Lists the referrers of a manifest; none if the registry has no referrers API.
    pub async fn list_referrers(
        &self,
        repository: &Repository,
        subject: &Digest,
    ) -> Result<Option<Vec<Descriptor>>, Error> {
        with_retries(|| self.list_referrers_once(repository, subject)).await
    }

    async fn list_referrers_once(
        &self,
        repository: &Repository,
        subject: &Digest,
    ) -> Result<Option<Vec<Descriptor>>, Error> {
        let object = object_name(repository, subject);
        let scope = [format!("repository:{repository}:pull")];
        let budget = &self.shared.connection.budget;
        let mut found: Vec<Descriptor> = Vec::new();
        let mut next = Some(self.url(&format!("{repository}/referrers/{subject}"))?);
        for _ in 0..MAX_PAGES {
            let Some(url) = next else {
                return Ok(Some(found));
            };
            budget.reserve(RequestKind::Listing, None).await?;
            let request = |http: &reqwest::Client| http.get(url.clone()).header(ACCEPT, OCI_INDEX);
            let action = "list the referrers of";
            let response = self.send(action, &object, &scope, request).await?;
            let status = response.status().as_u16();
            // The statuses of registries for an endpoint that they do not have.
            if (300..400).contains(&status) || [400, 403, 404, 405, 406, 410, 501].contains(&status)
            {
                return Ok(None);
            }
            let response = self.expect_status(action, &object, response, &[200]).await;
            let response = budget
                .record_refusal(RequestKind::Listing, response)
                .await?;
            if parse_media_type(response.headers()) != OCI_INDEX {
                return Err(Error::untrusted(
                    object,
                    "its list of referrers is no index",
                ));
            }
            let following = parse_next_page(&url, response.headers());
            next = following.map_err(|reason| Error::untrusted(&object, reason))?;
            let raw = read_body(&object, response, MAX_PAGE).await?;
            let page = Manifest::parse(&object, OCI_INDEX, raw)?;
            found.extend(page.children().iter().cloned());
            if found.len() > MAX_REFERRERS {
                tracing::warn!(object, "more than 256 referrers; the rest is ignored");
                found.truncate(MAX_REFERRERS);
                return Ok(Some(found));
            }
        }
        let reason = "its list of referrers has more than 16 pages";
        Err(Error::untrusted(object, reason))
    }
}
