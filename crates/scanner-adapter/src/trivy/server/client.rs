//! A client of one Trivy server: its address, its token, and the versions that it works with.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use sluice_service::SecretFile;
use tokio::time::Instant;
use url::Url;

use crate::scanner::ScannerVersion;
use crate::trivy::failure::{FailureKind, TrivyFailure};
use crate::trivy::program::Variables;

/// How long a server may take until it answers for the first time.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long the client waits between two requests until then.
const START_INTERVAL: Duration = Duration::from_millis(50);
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The header that carries the token.
pub(crate) const TOKEN_HEADER: &str = "trivy-token";
/// The content type of Trivy's messages.
pub(crate) const PROTOBUF: &str = "application/protobuf";

/// The address of a server, and what it takes to use it.
#[derive(Debug, Clone)]
pub(crate) struct ServerAddress {
    pub(crate) url: Url,
    /// The token, if the server asks for one.
    pub(crate) token: Option<Token>,
}

/// The token of a server.
#[derive(Debug, Clone)]
pub(crate) enum Token {
    /// The random token of a server that this process runs.
    Generated(SecretString),
    /// The file with the token of a remote server; it is read at each use, so that it can be changed.
    File(SecretFile),
}

impl Token {
    /// Returns the token. Without one, because its file cannot be read, the server answers that it is missing.
    fn text(&self) -> Option<SecretString> {
        match self {
            Self::Generated(text) => Some(text.clone()),
            Self::File(file) => file
                .text()
                .inspect_err(|error| tracing::warn!("failed to read {file}: {error:#}"))
                .ok(),
        }
    }
}

/// A client of one server.
#[derive(Debug, Clone)]
pub(crate) struct ServerClient {
    pub(crate) address: ServerAddress,
    pub(crate) http: reqwest::Client,
}

/// The answer to a request for the versions.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VersionAnswer {
    version: String,
    #[serde(rename = "VulnerabilityDB")]
    database: Option<DatabaseAnswer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DatabaseAnswer {
    updated_at: String,
}

/// Makes the HTTP client for all servers.
pub(crate) fn http_client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ANSWER_LIMIT)
        .build()
}

impl ServerClient {
    /// Fetches the versions that the server works with.
    pub(crate) async fn version(&self) -> Result<ScannerVersion, TrivyFailure> {
        let unreachable =
            |error: reqwest::Error| TrivyFailure::server_unreachable(error.without_url());
        let url = self.address.url.join("/version");
        let url = url.map_err(TrivyFailure::server_unreachable)?;
        let answer = self.http.get(url).send().await.map_err(unreachable)?;
        let answer = answer.error_for_status().map_err(unreachable)?;
        parse_version(&answer.bytes().await.map_err(unreachable)?)
    }

    /// Waits until a server that was just started answers with its versions.
    pub(crate) async fn first_version(&self) -> Result<ScannerVersion, TrivyFailure> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match self.version().await {
                Ok(version) => return Ok(version),
                Err(failure) if Instant::now() > deadline => return Err(failure),
                Err(_) => tokio::time::sleep(START_INTERVAL).await,
            }
        }
    }

    /// Sends a message of Trivy's protocol.
    pub(crate) async fn call(
        &self,
        path: &str,
        message: Vec<u8>,
        limit: Duration,
    ) -> Result<reqwest::Response, reqwest::Error> {
        let mut request = self.http.post(format!("{}{path}", self.base()));
        if let Some(token) = self.token() {
            request = request.header(TOKEN_HEADER, token.expose_secret());
        }
        let request = request.header(CONTENT_TYPE, PROTOBUF).body(message);
        request.timeout(limit).send().await
    }

    /// Returns the arguments with which a run of Trivy uses this server.
    pub(crate) fn arguments(&self) -> [String; 2] {
        ["--server".to_owned(), self.base().to_owned()]
    }

    /// Returns the variables with which a run of Trivy uses this server.
    pub(crate) fn variables(&self) -> Variables {
        match self.token() {
            Some(token) => Variables::default().with("TRIVY_TOKEN", &token),
            None => Variables::default(),
        }
    }

    fn base(&self) -> &str {
        self.address.url.as_str().trim_end_matches('/')
    }

    fn token(&self) -> Option<SecretString> {
        self.address.token.as_ref().and_then(Token::text)
    }
}

fn parse_version(body: &[u8]) -> Result<ScannerVersion, TrivyFailure> {
    let answer: VersionAnswer = serde_json::from_slice(body)
        .map_err(|error| TrivyFailure::server_unreachable(format!("no Trivy server: {error}")))?;
    let missing = || TrivyFailure::new(FailureKind::DatabaseMissing, "");
    let updated_at = answer.database.ok_or_else(missing)?.updated_at;
    let database = updated_at.parse().map_err(|_| missing())?;
    Ok(ScannerVersion {
        scanner: answer.version,
        database,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_answers_with_its_versions() {
        let version = parse_version(
            br#"{"Version":"0.59.1","VulnerabilityDB":{"Version":2,"NextUpdate":"2026-11-03T00:00:00Z",
                "UpdatedAt":"2026-11-02T01:02:03.552891Z","DownloadedAt":"2026-11-25T14:40:44.4Z"}}"#,
        )
        .unwrap();
        assert_eq!(version.scanner, "0.59.1");
        assert_eq!(version.database_text(), "2026-11-02T01:02:03Z");
    }

    #[test]
    fn a_server_without_a_database_or_that_is_none_is_refused() {
        for (body, kind) in [
            (r#"{"Version":"0.59.1"}"#, FailureKind::DatabaseMissing),
            (
                r#"{"Version":"0.59.1","VulnerabilityDB":{"UpdatedAt":""}}"#,
                FailureKind::DatabaseMissing,
            ),
            ("<html>", FailureKind::ServerUnreachable),
            ("{}", FailureKind::ServerUnreachable),
        ] {
            let failure = parse_version(body.as_bytes()).unwrap_err();
            assert_eq!(failure.kind, kind, "{body}");
        }
    }
}
