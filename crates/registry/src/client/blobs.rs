//! Blobs of one registry: existence, size, and reading.

use reqwest::header::CONTENT_LENGTH;
use reqwest::{Method, Response};
use sluice_domain::{Digest, Repository};

use crate::client::{Client, Read, object_name};
use crate::content::manifest::descriptor::Descriptor;
use crate::error::Error;

const ANY: &str = "*/*";

impl Client {
    /// Returns whether a repository has a blob; `actions` are those of the token's scope.
    pub(crate) async fn has_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        actions: &str,
    ) -> Result<bool, Error> {
        let object = object_name(repository, digest);
        let url = self.url(&format!("{repository}/blobs/{digest}"))?;
        let scope = [format!("repository:{repository}:{actions}")];
        let response = self
            .send("look up", &object, &scope, |http| http.head(url.clone()))
            .await?;
        let status = response.status();
        // A registry redirects only to a blob that exists.
        if status.is_redirection() {
            return Ok(true);
        }
        // If HEAD is refused the blob counts as missing; copying it again does no harm.
        if matches!(status.as_u16(), 404 | 405 | 501) {
            return Ok(false);
        }
        self.expect_status("look up", &object, response, &[200])
            .await
            .map(|_| true)
    }

    /// Opens a blob; redirects are followed without the credential.
    pub(crate) async fn open_blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
    ) -> Result<Response, Error> {
        self.open(repository, blob, 0, &[200]).await
    }

    /// Opens the rest of a blob; the response may also be the whole of it, or status 416.
    pub(crate) async fn open_blob_at(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        offset: u64,
    ) -> Result<Response, Error> {
        self.open(repository, blob, offset, &[200, 206, 416]).await
    }

    async fn open(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        offset: u64,
        expected: &[u16],
    ) -> Result<Response, Error> {
        let object = object_name(repository, &blob.digest);
        let scope = [format!("repository:{repository}:pull")];
        let url = self.url(&format!("{repository}/blobs/{}", blob.digest))?;
        let get = Read {
            method: Method::GET,
            accept: ANY,
            action: "fetch",
            offset,
        };
        let response = self.read(&get, &object, &scope, url).await?;
        if response.status() == 404 {
            return Err(Error::NotFound { object });
        }
        self.expect_status(get.action, &object, response, expected)
            .await
    }

    /// Returns the size of a blob, if the registry names it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the repository does not have it.
    pub async fn blob_size(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, Error> {
        let object = object_name(repository, digest);
        let url = self.url(&format!("{repository}/blobs/{digest}"))?;
        let scope = [format!("repository:{repository}:pull")];
        let head = Read {
            method: Method::HEAD,
            accept: ANY,
            action: "look up",
            offset: 0,
        };
        let response = self.read(&head, &object, &scope, url).await?;
        if response.status() == 404 {
            return Err(Error::NotFound { object });
        }
        let response = self
            .expect_status(head.action, &object, response, &[200])
            .await?;
        let length = response.headers().get(CONTENT_LENGTH);
        Ok(length.and_then(|length| length.to_str().ok()?.parse().ok()))
    }
}
