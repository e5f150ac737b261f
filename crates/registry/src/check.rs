//! Tries what a registry lets its client do, and leaves nothing behind.

use reqwest::Response;
use sluice_domain::Repository;

use crate::client::{Client, location};
use crate::error::Error;

/// How a registry wants to know who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// Not at all, so far.
    Nothing,
    /// By user name and password with each request.
    Basic,
    /// By a token that is fetched at this host.
    Token {
        /// The host of the issuer.
        issuer: String,
    },
}

/// Whether something may be done in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// It may.
    Granted,
    /// Nobody says that it may not, but there is no such repository.
    Absent,
    /// It may not.
    Refused,
}

/// What a registry was found to let its client do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// How it wants to know who asks.
    pub authentication: Authentication,
    /// Whether the repository may be read, if one was named.
    pub reads: Option<Right>,
    /// Whether it may be written, if that was asked.
    pub writes: Option<Right>,
}

impl Client {
    /// Reaches the registry, logs in, and tries to read a repository, and to write it by an upload that is given up.
    ///
    /// # Errors
    /// A registry that is not reached, is none, or does not accept the account.
    pub async fn check(
        &self,
        repository: Option<&Repository>,
        write: bool,
    ) -> Result<Checked, Error> {
        let pull = |repository: &Repository| format!("repository:{repository}:pull");
        // Some issuers give no token that is good for nothing.
        let scopes: Vec<String> = repository.map(pull).into_iter().collect();
        let (host, url) = (self.host().as_str(), self.url("")?);
        let answer = self
            .send("reach", host, &scopes, |http| http.get(url.clone()))
            .await?;
        self.accept("reach", host, answer, &[200]).await?;
        let (mut reads, mut writes) = (None, None);
        if let Some(repository) = repository {
            reads = Some(self.reads(repository, &scopes).await?);
            if write {
                writes = Some(self.writes(repository).await?);
            }
        }
        Ok(Checked {
            authentication: self.authentication().await,
            reads,
            writes,
        })
    }

    async fn reads(&self, repository: &Repository, scopes: &[String]) -> Result<Right, Error> {
        let (action, what) = ("read", repository.as_str());
        let url = self.url(&format!("{repository}/tags/list?n=1"))?;
        let sent = self
            .send(action, what, scopes, |http| http.get(url.clone()))
            .await;
        let (right, _) = self.right(action, what, sent, 200).await?;
        Ok(right)
    }

    async fn writes(&self, repository: &Repository) -> Result<Right, Error> {
        let (action, what) = ("write", repository.as_str());
        let url = self.url(&format!("{repository}/blobs/uploads/"))?;
        let scopes = [format!("repository:{repository}:pull,push")];
        let sent = self
            .send(action, what, &scopes, |http| http.post(url.clone()))
            .await;
        let (right, answer) = self.right(action, what, sent, 202).await?;
        if let Some(answer) = answer
            && let Ok(upload) = location(what, &url, &answer)
            && self.is_own(&upload)
        {
            let given_up = self.send("give up the upload in", what, &scopes, |http| {
                http.delete(upload.clone())
            });
            if let Err(error) = given_up.await {
                tracing::debug!(%error, "the upload is left to the registry to clear away");
            }
        }
        Ok(right)
    }

    /// Reads a right out of an answer of the registry or of its token issuer.
    async fn right(
        &self,
        action: &'static str,
        what: &str,
        sent: Result<Response, Error>,
        granted: u16,
    ) -> Result<(Right, Option<Response>), Error> {
        let answer = match sent {
            Err(Error::Refused { status, .. }) if matches!(status.as_u16(), 401 | 403) => {
                return Ok((Right::Refused, None));
            }
            sent => sent?,
        };
        match answer.status().as_u16() {
            status if status == granted => Ok((Right::Granted, Some(answer))),
            401 | 403 | 405 => Ok((Right::Refused, None)),
            404 => Ok((Right::Absent, None)),
            _ => {
                self.accept(action, what, answer, &[granted]).await?;
                Ok((Right::Granted, None))
            }
        }
    }
}
