//! One Trivy server, of our own or running elsewhere, with the vulnerability database that was checked in it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;
use serde::Deserialize;
use sluice_service::SecretFile;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use url::Url;

use crate::confinement::Lifetime;
use crate::distributions::Systems;
use crate::failure::{Failed, Kind};
use crate::probe::Probes;
use crate::relay::Matcher;
use crate::report::Summary;
use crate::trivy::{Trivy, Variables, tail, text};

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
    pub(crate) token: Option<Token>,
}

/// What proves to a server that we may ask it.
#[derive(Debug, Clone)]
pub(crate) enum Token {
    /// That of a server of our own, which lives as long as the server does.
    Own(SecretString),
    /// That of a server elsewhere; it is read at each use, so that it can be changed.
    Kept(SecretFile),
}

impl Token {
    /// Returns the token; one that cannot be read is not shown, and the server says that it is missing.
    pub(crate) fn text(&self) -> Option<SecretString> {
        match self {
            Self::Own(text) => Some(text.clone()),
            Self::Kept(file) => file
                .text()
                .inspect_err(|error| tracing::warn!("{file} cannot be read: {error:#}"))
                .ok(),
        }
    }
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
    /// From when on its database is too old.
    expires_at: DateTime<Utc>,
    http: reqwest::Client,
    process: Option<Process>,
    coverage: Coverage,
    /// What makes the keys under which a server elsewhere keeps what we send it ones that nobody can know: whoever has
    /// its token could put something else there before.
    nonce: Option<String>,
}

/// How it is known what a database covers.
#[derive(Debug)]
enum Coverage {
    /// Its buckets were read.
    Read(Systems),
    /// The server is asked.
    Probed(Probes),
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
    /// Returns from when on the database is too old.
    fn expires_at(&self, max_age: TimeDelta) -> DateTime<Utc> {
        let expires_at = self.database.checked_add_signed(max_age);
        expires_at.unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

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
    pub(crate) async fn elsewhere(
        address: Address,
        http: reqwest::Client,
        max_age: TimeDelta,
    ) -> Result<Self, Failed> {
        let version = ask(&http, &address.url).await?;
        Ok(Self {
            address,
            expires_at: version.expires_at(max_age),
            version,
            http,
            process: None,
            coverage: Coverage::Probed(Probes::default()),
            nonce: Some(uuid::Uuid::new_v4().simple().to_string()),
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
        max_age: TimeDelta,
    ) -> Result<Self, Failed> {
        let mut failed = Failed::new(Kind::ServerGone, "");
        for _ in 0..PORTS {
            match Self::start_once(trivy, folder, http.clone(), tracker, max_age).await {
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
        max_age: TimeDelta,
    ) -> Result<Self, Failed> {
        let broken = |error: std::io::Error| Failed::new(Kind::ServerGone, error.to_string());
        let listen = free_address().await.map_err(broken)?;
        let token: SecretString = format!(
            "{}{}",
            uuid::Uuid::new_v4().simple(),
            uuid::Uuid::new_v4().simple()
        )
        .into();
        trivy.hand_over_all(folder).map_err(broken)?;
        let mut log = tempfile::tempfile_in(folder).map_err(broken)?;
        let written = log.try_clone().map_err(broken)?;
        // The token is in the environment: every user of the machine can read arguments.
        let variables = Variables::default().with("TRIVY_TOKEN", &token);
        let mut command = trivy.command(folder, &variables, Lifetime::Service);
        command
            .args(["server", "--skip-db-update", "--quiet", "--listen", &listen])
            // What was found in layers is kept by the relay and lent for one match.
            .args(["--cache-backend", "memory"])
            .arg("--cache-dir")
            .arg(folder)
            .stderr(Stdio::from(written));
        let mut child = command.spawn().map_err(broken)?;
        let group = trivy.group(&child);
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
                    drop(group);
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
                return Err(Failed::of(&tail(&mut log).unwrap_or_default()));
            }
        };
        Ok(Self {
            address: Address {
                url,
                token: Some(Token::Own(token)),
            },
            expires_at: version.expires_at(max_age),
            version,
            http,
            process: Some(process),
            coverage: Coverage::Read(Systems::default()),
            nonce: None,
        })
    }

    /// Says what the database of a server of our own covers; until then that is nothing.
    pub(crate) fn with_systems(self, systems: Systems) -> Self {
        Self {
            coverage: Coverage::Read(systems),
            ..self
        }
    }

    /// Returns what its database knows nothing of in an image.
    ///
    /// # Errors
    /// A server elsewhere that cannot be asked.
    pub(crate) async fn unknown(
        &self,
        trivy: &Trivy,
        work: &Path,
        summary: &Summary,
    ) -> Result<Option<String>, Failed> {
        match &self.coverage {
            Coverage::Read(systems) => Ok(systems.unknown(summary)),
            Coverage::Probed(probes) => probes.unknown(self, trivy, work, summary).await,
        }
    }

    /// Returns what the server works with at this moment; another database there than the one that was checked counts
    /// as a failure.
    ///
    /// # Errors
    /// A server that does not answer, that has another database by now, or whose database has become too old.
    pub(crate) async fn confirm(&self) -> Result<(), Failed> {
        if Utc::now() > self.expires_at {
            return Err(Failed::new(
                Kind::DatabaseAge,
                format!("it was made at {}", self.version.database_text()),
            ));
        }
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

    /// Returns how the relay asks this server.
    pub(crate) fn matcher(&self) -> Matcher {
        Matcher {
            address: self.address.clone(),
            http: self.http.clone(),
            limit: ANSWER_LIMIT,
        }
    }

    /// Returns the arguments that make a run of Trivy ask this server.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let url = self.address.url.as_str().trim_end_matches('/');
        let mut arguments = vec!["--server".to_owned(), url.to_owned()];
        // What is skipped is a part of the key of everything that is sent.
        if let Some(nonce) = &self.nonce {
            arguments.extend(["--skip-files".to_owned(), format!("sluice/{nonce}")]);
        }
        arguments
    }

    /// Returns the variables that a run of Trivy needs to ask this server.
    pub(crate) fn variables(&self) -> Variables {
        match self.address.token.as_ref().and_then(Token::text) {
            Some(token) => Variables::default().with("TRIVY_TOKEN", &token),
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

    /// A server that says only what it works with.
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
        let address = Address { url, token: None };
        let century = TimeDelta::days(36_500);
        let mut server = Server::elsewhere(address, http().unwrap(), century)
            .await
            .unwrap();
        server.confirm().await.unwrap();
        server.expires_at = Utc::now() - TimeDelta::seconds(1);
        let failed = server.confirm().await.unwrap_err();
        assert_eq!(failed.kind, Kind::DatabaseAge);
        // The image waits, and counts as untried.
        assert_eq!(failed.kind.remedy(), crate::failure::Remedy::Wait);
    }
}
