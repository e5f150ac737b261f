//! Blobs: is it there, mount it, or stream it from one registry to another.

use futures_util::StreamExt as _;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Method, Response, StatusCode};
use sluice_domain::{Digest, Repository};
use sluice_service::crash;
use url::Url;

use crate::client::{Client, location, what};
use crate::error::Error;
use crate::manifest::Descriptor;
use crate::progress::Arrival;
use crate::turn::turn;
use crate::verify::Verified;

impl Client {
    /// Says whether a repository has a blob.
    pub(crate) async fn has_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        actions: &str,
    ) -> Result<bool, Error> {
        let what = what(repository, digest);
        let url = self.url(&format!("{repository}/blobs/{digest}"))?;
        let scope = [format!("repository:{repository}:{actions}")];
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
        let get = (Method::GET, "*/*");
        let answer = self.read(get, "fetch", &what, &scope, first).await?;
        if answer.status() == 404 {
            return Err(Error::NotFound { what });
        }
        self.accept("fetch", &what, answer, &[200]).await
    }

    /// Brings a blob into a repository, in the cheapest way that works.
    pub(crate) async fn bring_blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        source: (&Self, &Repository),
        siblings: &[Repository],
    ) -> Result<Arrival, Error> {
        let _turn = turn(&self.shared.endpoint.base, repository, &blob.digest).await;
        let push = "pull,push";
        match self.has_blob(repository, &blob.digest, push).await {
            Ok(true) => return Ok(Arrival::Skipped),
            Ok(false) => {}
            // A registry whose disk was full may have kept half of what it knows of a blob; bringing it again mends that.
            Err(error) if error.is_away() => {
                tracing::debug!(image.digest = %blob.digest, %error, "brought whether it is there or not");
            }
            Err(error) => return Err(error),
        }
        let upload = match self.mount(repository, &blob.digest, siblings).await {
            Some(upload) => upload,
            None => self.start(repository, &blob.digest, None).await?,
        };
        let Upload::At(upload) = upload else {
            return Ok(Arrival::Mounted);
        };
        crash::point("copy.upload_begun");
        let (source, from) = source;
        let body = source.blob(from, blob).await?;
        self.upload(repository, blob, upload, body).await?;
        Ok(Arrival::Copied)
    }

    /// Mounts from the first sibling that has the blob; one that cannot be read or used stops nothing.
    ///
    /// The registry may answer with an upload instead, which is as good as a new one.
    async fn mount(
        &self,
        repository: &Repository,
        digest: &Digest,
        siblings: &[Repository],
    ) -> Option<Upload> {
        for sibling in siblings {
            let upload = match self.has_blob(sibling, digest, "pull").await {
                Ok(true) => self.start(repository, digest, Some(sibling)).await,
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            match upload {
                Ok(upload) => return Some(upload),
                Err(error) => {
                    tracing::debug!(image.repository = %sibling, image.digest = %digest, %error, "not mounted");
                }
            }
        }
        None
    }

    /// Starts an upload, or asks to mount from a sibling.
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
        let used = self.authorization(&scope).await?;
        if let Some(authorization) = used.clone() {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(reqwest::Body::wrap_stream(verified));
        let answer = self
            .shared
            .transport
            .send(request)
            .await
            .map_err(|error| broken(&what, error))?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            // The next try starts with a fresh token.
            self.learn(answer.headers(), &scope, used.as_ref()).await?;
            return Err(Error::StaleToken { what });
        }
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
