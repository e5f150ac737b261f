//! One Trivy server, which this adapter runs or which is remote, with the vulnerability database that was checked.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use url::Url;

use crate::scanner::ScannerVersion;
use crate::trivy::failure::{FailureKind, TrivyFailure};
use crate::trivy::program::{TrivyProgram, path_argument};
use crate::trivy::server::client::{ServerAddress, ServerClient, Token};
use crate::trivy::server::process::ServerProcess;

mod canary;
pub(crate) mod checked_server;
pub(crate) mod client;
mod probe;
mod process;
pub(crate) mod relay;
pub(crate) mod server_source;
pub(crate) mod server_state;
pub(crate) mod supervisor;

/// How many ports are tried where other programs take them.
const MAX_PORTS: usize = 5;
/// How long the match of a small bill of materials may take.
const MATCH_LIMIT: Duration = Duration::from_secs(60);

/// A server and the versions that it worked with when it was checked.
#[derive(Debug)]
pub(crate) struct TrivyServer {
    pub(crate) client: ServerClient,
    pub(crate) version: ScannerVersion,
    /// From when on its database is too old.
    expires_at: DateTime<Utc>,
    /// The process of a server that this adapter runs.
    process: Option<ServerProcess>,
    /// Makes the keys unguessable under which a remote server stores what it is sent: whoever has its token could store
    /// other entries there before.
    nonce: Option<String>,
}

impl TrivyServer {
    /// Connects to a remote server.
    pub(crate) async fn connect(
        client: ServerClient,
        max_age: TimeDelta,
    ) -> Result<Self, TrivyFailure> {
        let version = client.version().await?;
        Ok(Self {
            client,
            expires_at: expires_at(&version, max_age),
            version,
            process: None,
            nonce: Some(uuid::Uuid::new_v4().simple().to_string()),
        })
    }

    /// Starts a server over the database in a folder, and waits until it answers.
    pub(crate) async fn start(
        program: &TrivyProgram,
        folder: &Path,
        http: &reqwest::Client,
        tracker: &TaskTracker,
        max_age: TimeDelta,
    ) -> Result<Self, TrivyFailure> {
        let mut last = TrivyFailure::new(FailureKind::ServerUnreachable, "");
        for _ in 0..MAX_PORTS {
            match Self::start_once(program, folder, http.clone(), tracker, max_age).await {
                Err(failure) if failure.message.contains("address already in use") => {
                    last = failure;
                }
                result => return result,
            }
        }
        Err(last)
    }

    async fn start_once(
        program: &TrivyProgram,
        folder: &Path,
        http: reqwest::Client,
        tracker: &TaskTracker,
        max_age: TimeDelta,
    ) -> Result<Self, TrivyFailure> {
        let listen = free_address().await;
        let listen = listen.map_err(TrivyFailure::server_unreachable)?;
        let random = || uuid::Uuid::new_v4().simple().to_string();
        let token = SecretString::from(random() + &random());
        let process = ServerProcess::start(program, folder, &listen, &token, tracker);
        let mut process = process.map_err(TrivyFailure::server_unreachable)?;
        let url = Url::parse(&format!("http://{listen}"));
        let url = url.map_err(TrivyFailure::server_unreachable)?;
        let token = Some(Token::Generated(token));
        let client = ServerClient {
            address: ServerAddress { url, token },
            http,
        };
        let version = tokio::select! {
            version = client.first_version() => Some(version?),
            () = process.ended() => None,
        };
        let version = version.ok_or_else(|| process.failure())?;
        Ok(Self {
            client,
            expires_at: expires_at(&version, max_age),
            version,
            process: Some(process),
            nonce: None,
        })
    }

    /// Checks that the server still has the database that was checked, and that this is not too old by now.
    pub(crate) async fn confirm(&self) -> Result<(), TrivyFailure> {
        if Utc::now() > self.expires_at {
            return Err(TrivyFailure::new(
                FailureKind::DatabaseAge,
                format!("it was made at {}", self.version.database_text()),
            ));
        }
        let now = self.client.version().await?;
        if now == self.version {
            return Ok(());
        }
        Err(TrivyFailure::new(
            FailureKind::DatabaseMissing,
            format!(
                "the server now works with a database of {}, which is not checked yet",
                now.database_text()
            ),
        ))
    }

    /// Waits until the process ends; a remote server is not watched.
    pub(crate) async fn ended(&self) {
        match &self.process {
            Some(process) => process.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Kills the process, even while it is used; a remote server stays.
    pub(crate) async fn stop(&self) {
        if let Some(process) = &self.process {
            process.stop().await;
        }
    }

    /// Returns the folder of the database, which a remote server does not have.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.process.as_ref().map(ServerProcess::folder)
    }

    /// Matches a bill of materials with the database, and returns the report.
    pub(crate) async fn match_sbom(
        &self,
        program: &TrivyProgram,
        sbom: &str,
    ) -> Result<Vec<u8>, TrivyFailure> {
        let folder = program.temporary_folder()?;
        let (input, report) = (
            folder.path().join("sbom.cdx.json"),
            folder.path().join("report.json"),
        );
        tokio::fs::write(&input, sbom).await?;
        let mut arguments = vec!["sbom".to_owned()];
        arguments.extend(self.client.arguments());
        // The skipped files are a part of the key of everything that is sent.
        if let Some(nonce) = &self.nonce {
            arguments.extend(["--skip-files".to_owned(), format!("sluice/{nonce}")]);
        }
        let options = [
            "--scanners",
            "vuln",
            "--format",
            "json",
            "--quiet",
            "--output",
        ];
        arguments.extend(options.map(str::to_owned));
        arguments.extend([path_argument(&report), path_argument(&input)]);
        let variables = self.client.variables();
        program
            .run(folder.path(), &arguments, &variables, MATCH_LIMIT)
            .await?;
        Ok(tokio::fs::read(&report).await?)
    }
}

/// Returns from when on a database is too old.
fn expires_at(version: &ScannerVersion, max_age: TimeDelta) -> DateTime<Utc> {
    let expires_at = version.database.checked_add_signed(max_age);
    expires_at.unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// Finds a port that is free now; another program may still take it.
async fn free_address() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok(listener.local_addr()?.to_string())
}

#[cfg(test)]
mod tests {
    use crate::error::Remedy;
    use crate::trivy::server::client::http_client;

    use super::*;

    /// A server that answers with its versions only.
    async fn answers(version: &'static str) -> Url {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(TaskTracker::new().spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let asked = client.read(&mut [0; 4_096]).await;
                assert!(asked.is_ok_and(|size| size > 0));
                let length = version.len();
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{version}");
                client.write_all(answer.as_bytes()).await.ok();
            }
        }));
        format!("http://{address}").parse().unwrap()
    }

    #[tokio::test]
    async fn a_database_that_becomes_too_old_while_it_is_used_is_used_no_longer() {
        let url = answers(
            r#"{"Version":"0.59.1","VulnerabilityDB":{"UpdatedAt":"2026-11-02T00:00:00Z"}}"#,
        )
        .await;
        let client = ServerClient {
            address: ServerAddress { url, token: None },
            http: http_client().unwrap(),
        };
        let century = TimeDelta::days(36_500);
        let mut server = TrivyServer::connect(client, century).await.unwrap();
        server.confirm().await.unwrap();
        server.expires_at = Utc::now() - TimeDelta::seconds(1);
        let failure = server.confirm().await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::DatabaseAge);
        // The image waits, and counts as untried.
        assert_eq!(failure.kind.remedy(), Remedy::RepairScanner);
    }
}
