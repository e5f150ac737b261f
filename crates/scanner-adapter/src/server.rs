//! One Trivy server, of our own or running elsewhere, with the vulnerability database that was checked in it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use url::Url;

use crate::failure::{Failed, Kind};
use crate::report::Summary;
use crate::systems::Systems;
use crate::trivy::{Group, Trivy, Variables, tail, text};

/// How long a server may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often it is asked until then.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How often another port is tried when somebody else was faster.
const PORTS: usize = 5;

/// Where a server is and how it is asked.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    /// Its address.
    pub(crate) url: Url,
    /// Its token, if it asks for one.
    pub(crate) token: Option<SecretString>,
}

/// What a server works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    /// The version of Trivy.
    pub(crate) scanner: String,
    /// The version of its vulnerability database, which is the time when that was made.
    pub(crate) database: DateTime<Utc>,
}

/// A server whose database was checked.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: Address,
    pub(crate) version: Version,
    http: reqwest::Client,
    process: Option<Process>,
    /// The operating systems of its database; nothing is known of one elsewhere.
    systems: Option<Systems>,
}

/// A server process of our own, which ends when this is dropped.
#[derive(Debug)]
struct Process {
    stop: CancellationToken,
    ended: CancellationToken,
    folder: PathBuf,
    _stop_when_dropped: DropGuard,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    version: String,
    #[serde(rename = "VulnerabilityDB")]
    database: Option<Database>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Database {
    updated_at: String,
}

impl Version {
    /// Returns the version of the database as it is recorded: text that sorts by time.
    pub(crate) fn database_text(&self) -> String {
        self.database
            .to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    }
}

/// Makes the client that servers are asked with.
///
/// # Errors
/// A system without what TLS needs.
pub(crate) fn http() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ANSWER_LIMIT)
        .build()
}

impl Server {
    /// Asks a server that runs elsewhere what it works with.
    ///
    /// # Errors
    /// A server that does not answer or has no database.
    pub(crate) async fn elsewhere(address: Address, http: reqwest::Client) -> Result<Self, Failed> {
        let version = ask(&http, &address.url).await?;
        Ok(Self {
            address,
            version,
            http,
            process: None,
            systems: None,
        })
    }

    /// Starts a server over the database in a folder, and waits until it answers.
    ///
    /// # Errors
    /// A server that does not start, told by what it wrote.
    pub(crate) async fn start(
        trivy: &Trivy,
        folder: &Path,
        http: reqwest::Client,
        tracker: &TaskTracker,
    ) -> Result<Self, Failed> {
        let mut failed = Failed::new(Kind::ServerGone, "");
        for _ in 0..PORTS {
            match Self::start_once(trivy, folder, http.clone(), tracker).await {
                Err(error) if error.told.contains("address already in use") => failed = error,
                started => return started,
            }
        }
        Err(failed)
    }

    async fn start_once(
        trivy: &Trivy,
        folder: &Path,
        http: reqwest::Client,
        tracker: &TaskTracker,
    ) -> Result<Self, Failed> {
        let broken = |error: std::io::Error| Failed::new(Kind::ServerGone, error.to_string());
        let listen = free_address().await.map_err(broken)?;
        let token: SecretString = format!(
            "{}{}",
            uuid::Uuid::new_v4().simple(),
            uuid::Uuid::new_v4().simple()
        )
        .into();
        let log = folder.join("server.log");
        let written = std::fs::File::create(&log).map_err(broken)?;
        // The token is in the environment: every user of the machine can read arguments.
        let mut command = trivy.command(folder, &Variables::default().with("TRIVY_TOKEN", &token));
        command
            .args(["server", "--skip-db-update", "--quiet", "--listen", &listen])
            .arg("--cache-dir")
            .arg(folder)
            .stderr(Stdio::from(written));
        let mut child = command.spawn().map_err(broken)?;
        let group = Group::of(&child);
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let process = Process {
            stop: stop.clone(),
            ended: ended.clone(),
            folder: folder.to_owned(),
            _stop_when_dropped: stop.clone().drop_guard(),
        };
        tracker.spawn(async move {
            let mut group = group;
            let _told = ended.drop_guard();
            tokio::select! {
                status = child.wait() => {
                    group.ended();
                    tracing::debug!(?status, "a Trivy server ended by itself");
                }
                () = stop.cancelled() => {
                    drop(group);
                    child.kill().await.ok();
                }
            }
        });
        let url = Url::parse(&format!("http://{listen}"))
            .map_err(|error| Failed::new(Kind::ServerGone, error.to_string()))?;
        let version = tokio::select! {
            version = answering(&http, &url) => version?,
            () = process.ended.cancelled() => {
                let text = std::fs::File::open(&log).and_then(|mut log| tail(&mut log));
                return Err(Failed::of(&text.unwrap_or_default()));
            }
        };
        Ok(Self {
            address: Address {
                url,
                token: Some(token),
            },
            version,
            http,
            process: Some(process),
            systems: None,
        })
    }

    /// Says which operating systems its database has.
    pub(crate) fn with_systems(self, systems: Systems) -> Self {
        Self {
            systems: Some(systems),
            ..self
        }
    }

    /// Returns what its database knows nothing of in an image, as far as that can be told.
    pub(crate) fn unknown(&self, summary: &Summary) -> Option<String> {
        self.systems.as_ref()?.unknown(summary)
    }

    /// Returns what the server works with at this moment; another database there than the one that was checked counts
    /// as a failure.
    ///
    /// # Errors
    /// A server that does not answer, or that has another database by now.
    pub(crate) async fn confirm(&self) -> Result<(), Failed> {
        let now = ask(&self.http, &self.address.url).await?;
        if now == self.version {
            return Ok(());
        }
        Err(Failed::new(
            Kind::DatabaseMissing,
            format!(
                "the server now works with a database of {}, which is not checked yet",
                now.database_text()
            ),
        ))
    }

    /// Waits until a server of our own ends; one elsewhere is not ours to watch.
    pub(crate) async fn ended(&self) {
        match &self.process {
            Some(process) => process.ended.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Ends a server of our own at once, whoever still asks it.
    pub(crate) async fn stop(&self) {
        if let Some(process) = &self.process {
            process.stop.cancel();
            process.ended.cancelled().await;
        }
    }

    /// Returns the folder of a server of our own.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.process
            .as_ref()
            .map(|process| process.folder.as_path())
    }

    /// Returns the arguments that make a run of Trivy ask this server.
    pub(crate) fn arguments(&self) -> [String; 2] {
        let url = self.address.url.as_str().trim_end_matches('/');
        ["--server".to_owned(), url.to_owned()]
    }

    /// Returns the variables that a run of Trivy needs to ask this server.
    pub(crate) fn variables(&self) -> Variables {
        match &self.address.token {
            Some(token) => Variables::default().with("TRIVY_TOKEN", token),
            None => Variables::default(),
        }
    }

    /// Matches a bill of materials against the database; writes the report to a file.
    ///
    /// # Errors
    /// A run that failed.
    pub(crate) async fn match_sbom(
        &self,
        trivy: &Trivy,
        folder: &Path,
        sbom: &Path,
        report: &Path,
        limit: Duration,
    ) -> Result<(), Failed> {
        let mut arguments = vec!["sbom".to_owned()];
        arguments.extend(self.arguments());
        let rest = [
            "--scanners",
            "vuln",
            "--format",
            "json",
            "--quiet",
            "--output",
        ];
        arguments.extend(rest.map(str::to_owned));
        arguments.extend([text(report), text(sbom)]);
        trivy
            .run(folder, &arguments, &self.variables(), limit)
            .await
    }
}

/// Asks until there is an answer.
async fn answering(http: &reqwest::Client, url: &Url) -> Result<Version, Failed> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        match ask(http, url).await {
            Ok(version) => return Ok(version),
            Err(failed) if Instant::now() > deadline => return Err(failed),
            Err(_) => tokio::time::sleep(ASK_AGAIN).await,
        }
    }
}

/// Asks a server what it works with.
async fn ask(http: &reqwest::Client, url: &Url) -> Result<Version, Failed> {
    let gone =
        |error: reqwest::Error| Failed::new(Kind::ServerGone, error.without_url().to_string());
    let at = url
        .join("/version")
        .map_err(|error| Failed::new(Kind::ServerGone, error.to_string()))?;
    let answer = http.get(at).send().await.map_err(gone)?;
    let body = answer
        .error_for_status()
        .map_err(gone)?
        .bytes()
        .await
        .map_err(gone)?;
    read(&body)
}

fn read(body: &[u8]) -> Result<Version, Failed> {
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|error| Failed::new(Kind::ServerGone, format!("no Trivy server: {error}")))?;
    let missing = || Failed::new(Kind::DatabaseMissing, "");
    let made = answer.database.ok_or_else(missing)?.updated_at;
    let database = made.parse().map_err(|_| missing())?;
    Ok(Version {
        scanner: answer.version,
        database,
    })
}

/// Finds a port that is free now; somebody else may still be faster.
async fn free_address() -> std::io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok(listener.local_addr()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_what_it_works_with() {
        let version = read(
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
            (r#"{"Version":"0.59.1"}"#, Kind::DatabaseMissing),
            (
                r#"{"Version":"0.59.1","VulnerabilityDB":{"UpdatedAt":""}}"#,
                Kind::DatabaseMissing,
            ),
            ("<html>", Kind::ServerGone),
            ("{}", Kind::ServerGone),
        ] {
            assert_eq!(read(body.as_bytes()).unwrap_err().kind, kind, "{body}");
        }
    }
}
