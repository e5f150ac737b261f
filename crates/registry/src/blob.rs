//! Blobs: is it there, mount it, or stream it from one registry to another.

use futures_util::StreamExt as _;
use reqwest::Response;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use sluice_domain::{Digest, Repository};
use url::Url;

use crate::client::{Client, what};
use crate::error::Error;
use crate::manifest::Descriptor;
use crate::verify::Verified;

/// The most redirects of a blob, as to a content network.
const MAX_REDIRECTS: usize = 5;

/// How a blob came to be in its repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    Present,
    Mounted,
    Copied,
}

impl Client {
    /// Says whether a repository has a blob.
    pub(crate) async fn has_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let what = what(repository, digest);
        let url = self.url(&format!("{repository}/blobs/{digest}"))?;
        let scope = [format!("repository:{repository}:pull,push")];
        let answer = self
            .send("look up", &what, &scope, |http| http.head(url.clone()))
            .await?;
        if answer.status() == 404 {
            return Ok(false);
        }
        self.accept("look up", &what, answer, &[200, 307])
            .await
            .map(|_| true)
    }

    /// Opens a blob; redirects are followed without the credential.
    pub(crate) async fn blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
    ) -> Result<Response, Error> {
        let what = what(repository, &blob.digest);
        let scope = [format!("repository:{repository}:pull")];
        let first = self.url(&format!("{repository}/blobs/{}", blob.digest))?;
        let mut answer = self
            .send("fetch", &what, &scope, |http| http.get(first.clone()))
            .await?;
        let mut at = first;
        for _ in 0..MAX_REDIRECTS {
            if !answer.status().is_redirection() {
                if answer.status() == 404 {
                    return Err(Error::NotFound { what });
                }
                return self.accept("fetch", &what, answer, &[200]).await;
            }
            at = location(&what, &at, &answer)?;
            if self.shared.endpoint.base.scheme() == "https" && at.scheme() != "https" {
                return Err(Error::untrusted(what, "it is redirected out of TLS"));
            }
            answer = self
                .shared
                .http
                .get(at.clone())
                .send()
                .await
                .map_err(Error::transport("fetch", &what))?;
        }
        Err(Error::untrusted(what, "it is redirected more than 5 times"))
    }

    /// Brings a blob into a repository, in the cheapest way that works.
    pub(crate) async fn bring_blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        source: (&Self, &Repository),
        siblings: &[Repository],
    ) -> Result<Arrival, Error> {
        if self.has_blob(repository, &blob.digest).await? {
            return Ok(Arrival::Present);
        }
        for sibling in siblings {
            if let Upload::Mounted = self.start(repository, &blob.digest, Some(sibling)).await? {
                return Ok(Arrival::Mounted);
            }
        }
        let Upload::At(upload) = self.start(repository, &blob.digest, None).await? else {
            return Ok(Arrival::Mounted);
        };
        let (source, from) = source;
        let body = source.blob(from, blob).await?;
        self.upload(repository, blob, upload, body).await?;
        Ok(Arrival::Copied)
    }

    /// Starts an upload, or mounts from a sibling; a sibling that has not got it leaves an upload to be cancelled.
    async fn start(
        &self,
        repository: &Repository,
        digest: &Digest,
        from: Option<&Repository>,
    ) -> Result<Upload, Error> {
        let what = what(repository, digest);
        let mut url = self.url(&format!("{repository}/blobs/uploads/"))?;
        let mut scopes = vec![format!("repository:{repository}:pull,push")];
        if let Some(from) = from {
            url.query_pairs_mut()
                .append_pair("mount", digest.as_str())
                .append_pair("from", from.as_str());
            scopes.push(format!("repository:{from}:pull"));
        }
        let request = |http: &reqwest::Client| http.post(url.clone()).header(CONTENT_LENGTH, 0);
        let answer = self
            .send("start the upload of", &what, &scopes, request)
            .await?;
        let answer = self
            .accept("start the upload of", &what, answer, &[201, 202])
            .await?;
        if answer.status() == 201 {
            return Ok(Upload::Mounted);
        }
        let at = location(&what, &url, &answer)?;
        if !self.is_own(&at) {
            return Err(Error::untrusted(what, "its upload leads to another host"));
        }
        if from.is_some() {
            // Best effort: the registry purges what is left of uploads by itself.
            let cancelled = self
                .send("cancel the upload of", &what, &scopes, |http| {
                    http.delete(at.clone())
                })
                .await;
            drop(cancelled);
        }
        Ok(Upload::At(at))
    }

    async fn upload(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        mut at: Url,
        body: Response,
    ) -> Result<(), Error> {
        let what = what(repository, &blob.digest);
        at.query_pairs_mut()
            .append_pair("digest", blob.digest.as_str());
        let verified = Verified::new(body.bytes_stream().boxed(), blob.digest.clone(), blob.size);
        let scope = [format!("repository:{repository}:pull,push")];
        // A streamed body cannot be sent twice, so its token is fetched before it begins.
        let mut request = self
            .shared
            .http
            .put(at)
            .header(CONTENT_LENGTH, blob.size)
            .header(CONTENT_TYPE, "application/octet-stream");
        if let Some(authorization) = self.authorization(&scope).await? {
            request = request.header(AUTHORIZATION, authorization);
        }
        let answer = request
            .body(reqwest::Body::wrap_stream(verified))
            .send()
            .await
            .map_err(|error| broken(&what, error))?;
        self.accept("upload", &what, answer, &[201]).await.map(drop)
    }
}

enum Upload {
    Mounted,
    At(Url),
}

/// A body that was broken off because its content is wrong is not worth another try.
fn broken(what: &str, error: reqwest::Error) -> Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(inner) = source {
        if let Some(
            reason @ (crate::verify::Broken::Digest { .. } | crate::verify::Broken::Length { .. }),
        ) = inner.downcast_ref::<crate::verify::Broken>()
        {
            return Error::untrusted(what, reason.to_string());
        }
        source = inner.source();
    }
    Error::transport("upload", what)(error)
}

fn location(what: &str, current: &Url, answer: &Response) -> Result<Url, Error> {
    let refuse = |reason: &str| Error::untrusted(what, reason);
    let value = answer
        .headers()
        .get(LOCATION)
        .ok_or_else(|| refuse("the registry does not say where to go on"))?;
    let text = value
        .to_str()
        .map_err(|_| refuse("the place to go on is not text"))?;
    current
        .join(text)
        .map_err(|_| refuse("the place to go on is no address"))
}
