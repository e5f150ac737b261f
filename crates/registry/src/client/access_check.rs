//! Checks what a registry allows its client to do, and leaves nothing behind.

use reqwest::Response;
use sluice_domain::Repository;

use crate::client::authentication::Authentication;
use crate::client::{Client, location};
use crate::error::Error;

/// The access to a repository that is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only to pull.
    Pull,
    /// To pull, and to push by an upload that is cancelled.
    PullAndPush,
}

/// Whether an account has an access to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// It has.
    Granted,
    /// It is not denied, but the repository does not exist.
    NoRepository,
    /// It has not.
    Denied,
}

/// What a registry allows its client to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessReport {
    /// How the registry authenticates its clients.
    pub authentication: Authentication,
    /// Whether the account may pull from the repository, if one was named.
    pub pull: Option<Permission>,
    /// Whether the account may push into it, if that was checked.
    pub push: Option<Permission>,
}

impl Client {
    /// Connects, logs in, and checks the access to a repository.
    pub async fn check_access(
        &self,
        repository: Option<(&Repository, Access)>,
    ) -> Result<AccessReport, Error> {
        let pull = |(repository, _)| format!("repository:{repository}:pull");
        // Some issuers refuse a token without a scope.
        let scopes: Vec<String> = repository.map(pull).into_iter().collect();
        let (host, url) = (self.host().as_str(), self.url("")?);
        let response = self
            .send("reach", host, &scopes, |http| http.get(url.clone()))
            .await?;
        self.expect_status("reach", host, response, &[200]).await?;
        let (mut pull, mut push) = (None, None);
        if let Some((repository, access)) = repository {
            pull = Some(self.check_pull(repository, &scopes).await?);
            if access == Access::PullAndPush {
                push = Some(self.check_push(repository).await?);
            }
        }
        Ok(AccessReport {
            authentication: self.shared.authenticator.scheme().await,
            pull,
            push,
        })
    }

    async fn check_pull(
        &self,
        repository: &Repository,
        scopes: &[String],
    ) -> Result<Permission, Error> {
        let (action, object) = ("read", repository.as_str());
        let url = self.url(&format!("{repository}/tags/list?n=1"))?;
        let sent = self
            .send(action, object, scopes, |http| http.get(url.clone()))
            .await;
        let (permission, _) = self.permission(action, object, sent, 200).await?;
        Ok(permission)
    }

    async fn check_push(&self, repository: &Repository) -> Result<Permission, Error> {
        let (action, object) = ("write", repository.as_str());
        let url = self.url(&format!("{repository}/blobs/uploads/"))?;
        let scopes = [format!("repository:{repository}:pull,push")];
        let sent = self
            .send(action, object, &scopes, |http| http.post(url.clone()))
            .await;
        let (permission, response) = self.permission(action, object, sent, 202).await?;
        if let Some(response) = response
            && let Ok(upload) = location(object, &url, &response)
            && self.is_own(&upload)
        {
            let cancelled = self.send("cancel the upload in", object, &scopes, |http| {
                http.delete(upload.clone())
            });
            if let Err(error) = cancelled.await {
                tracing::debug!(%error, "upload not cancelled; the registry purges it later");
            }
        }
        Ok(permission)
    }

    /// Derives a permission from a response of the registry or of its token issuer.
    async fn permission(
        &self,
        action: &'static str,
        object: &str,
        sent: Result<Response, Error>,
        granted: u16,
    ) -> Result<(Permission, Option<Response>), Error> {
        let response = match sent {
            Err(Error::UnexpectedStatus { status, .. }) if matches!(status.as_u16(), 401 | 403) => {
                return Ok((Permission::Denied, None));
            }
            sent => sent?,
        };
        match response.status().as_u16() {
            status if status == granted => Ok((Permission::Granted, Some(response))),
            401 | 403 | 405 => Ok((Permission::Denied, None)),
            404 => Ok((Permission::NoRepository, None)),
            _ => {
                self.expect_status(action, object, response, &[granted])
                    .await?;
                Ok((Permission::Granted, None))
            }
        }
    }
}
