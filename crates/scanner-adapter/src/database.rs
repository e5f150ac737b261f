//! Fetching databases with Trivy itself, each into an empty folder, so that a running server keeps what it has.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::failure::{Failed, Kind};
use crate::folder::Folder;
use crate::settings::TrivySettings;
use crate::trivy::{Trivy, Variables, text};

/// How long a download may take; Trivy's database has some 60 MB, the index of Java archives some 700.
const LIMIT: Duration = Duration::from_secs(1_800);
/// After how long a newer database is looked for, whatever the present one says of its next update.
const UPDATE_AGE: chrono::TimeDelta = chrono::TimeDelta::hours(24);
/// After how long the index of Java archives is fetched again.
const JAVA_AGE: chrono::TimeDelta = chrono::TimeDelta::days(7);

/// Where databases come from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    repository: String,
    java_repository: String,
    insecure: bool,
}

/// What is known of a database that lies in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Metadata {
    /// When it was made.
    pub(crate) updated_at: DateTime<Utc>,
    /// Before this time its publisher does not make a newer one.
    pub(crate) next_update: DateTime<Utc>,
}

impl Metadata {
    /// Returns when a newer one is to be looked for.
    pub(crate) fn look_again_at(&self) -> DateTime<Utc> {
        let latest = self.updated_at.checked_add_signed(UPDATE_AGE);
        latest.map_or(self.next_update, |latest| latest.min(self.next_update))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Raw {
    updated_at: String,
    next_update: String,
}

impl Origin {
    pub(crate) fn of(settings: &TrivySettings) -> Self {
        let repository = match settings.database_digest.as_str() {
            "" => settings.database_repository.clone(),
            digest => format!("{}@{digest}", without_tag(&settings.database_repository)),
        };
        Self {
            repository,
            java_repository: settings.java_database_repository.clone(),
            insecure: settings.database_insecure,
        }
    }

    /// Fetches the vulnerability database into a folder.
    ///
    /// # Errors
    /// A place that does not answer or has none.
    pub(crate) async fn fetch(&self, trivy: &Trivy, folder: &Path) -> Result<Metadata, Failed> {
        let options = ["--download-db-only", "--db-repository"];
        self.download(trivy, folder, options, &self.repository)
            .await
            .map_err(|failed| Failed::new(Kind::DatabaseDownload, failed.told))?;
        metadata(&folder.join("db"))
    }

    /// The account of the internal registry is not given along: it is nobody else's business.
    async fn download(
        &self,
        trivy: &Trivy,
        folder: &Path,
        [only, from]: [&str; 2],
        repository: &str,
    ) -> Result<(), Failed> {
        let mut arguments = vec![
            "image".to_owned(),
            only.to_owned(),
            "--no-progress".to_owned(),
        ];
        arguments.extend(["--cache-dir".to_owned(), text(folder)]);
        if !repository.is_empty() {
            arguments.extend([from.to_owned(), repository.to_owned()]);
        }
        if self.insecure {
            arguments.push("--insecure".to_owned());
        }
        trivy
            .run(folder, &arguments, &Variables::of_download(), LIMIT)
            .await
    }
}

/// Returns a reference without its tag: Trivy takes either a tag or a digest.
fn without_tag(reference: &str) -> &str {
    match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => reference,
    }
}

/// Reads what lies beside a database.
///
/// # Errors
/// [`Kind::DatabaseMissing`] for a folder without one; [`Kind::Unknown`] for one that cannot be read.
pub(crate) fn metadata(folder: &Path) -> Result<Metadata, Failed> {
    let missing = |reason: String| Failed::new(Kind::DatabaseMissing, reason);
    let bytes =
        std::fs::read(folder.join("metadata.json")).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => missing(error.to_string()),
            _ => Failed::new(Kind::Unknown, error.to_string()),
        })?;
    let raw: Raw = serde_json::from_slice(&bytes).map_err(|error| missing(error.to_string()))?;
    let time = |text: &str| {
        text.parse::<DateTime<Utc>>()
            .map_err(|error| missing(format!("`{}` is no time: {error}", text.escape_default())))
    };
    Ok(Metadata {
        updated_at: time(&raw.updated_at)?,
        next_update: time(&raw.next_update)?,
    })
}

/// The index of Java archives, which is large and fetched only when an image has such archives.
#[derive(Debug)]
pub(crate) struct JavaIndex {
    fetched: Mutex<Option<(PathBuf, DateTime<Utc>)>>,
}

impl JavaIndex {
    pub(crate) fn new() -> Self {
        Self {
            fetched: Mutex::new(None),
        }
    }

    /// Returns the cache folder that holds the index, or an empty one while there is none.
    pub(crate) async fn folder(&self, otherwise: &Path) -> PathBuf {
        let fetched = self.fetched.lock().await;
        match &*fetched {
            Some((path, at)) if Utc::now() - *at < JAVA_AGE => path.clone(),
            _ => otherwise.to_owned(),
        }
    }

    /// Fetches the index, unless somebody else just did.
    ///
    /// # Errors
    /// A place that does not answer or has none.
    pub(crate) async fn fetch(
        &self,
        origin: &Origin,
        trivy: &Trivy,
        folder: &Folder,
    ) -> Result<PathBuf, Failed> {
        let mut fetched = self.fetched.lock().await;
        if let Some((path, at)) = &*fetched
            && Utc::now() - *at < JAVA_AGE
        {
            return Ok(path.clone());
        }
        *fetched = None;
        let broken = |error: std::io::Error| Failed::new(Kind::JavaDatabase, error.to_string());
        let path = folder.java().map_err(broken)?;
        let options = ["--download-java-db-only", "--java-db-repository"];
        tracing::info!("an image has Java archives; their index is fetched");
        origin
            .download(trivy, &path, options, &origin.java_repository)
            .await
            .map_err(|failed| Failed::new(Kind::JavaDatabase, failed.told))?;
        *fetched = Some((path.clone(), Utc::now()));
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_lies_beside_a_database_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(folder.path().join("metadata.json"), text).unwrap();
        assert!(metadata(folder.path()).is_err());
        for wrong in ["", "{}", r#"{"UpdatedAt":"soon","NextUpdate":"later"}"#] {
            write(wrong);
            assert_eq!(
                metadata(folder.path()).unwrap_err().kind,
                Kind::DatabaseMissing,
                "{wrong}"
            );
        }
        write(
            r#"{"Version":2,"NextUpdate":"2026-11-03T00:00:00Z","UpdatedAt":"2026-11-02T00:00:00.5Z"}"#,
        );
        let read = metadata(folder.path()).unwrap();
        assert!(read.updated_at < read.next_update);
    }

    #[test]
    fn a_database_cannot_put_off_the_look_for_the_next_one() {
        let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let updated_at = time("2026-11-02T00:00:00Z");
        for (next_update, look_again_at) in [
            ("2026-11-02T06:00:00Z", "2026-11-02T06:00:00Z"),
            ("2100-01-01T00:00:00Z", "2026-11-03T00:00:00Z"),
        ] {
            let next_update = time(next_update);
            let read = Metadata {
                updated_at,
                next_update,
            };
            assert_eq!(read.look_again_at(), time(look_again_at));
        }
    }

    #[test]
    fn a_tag_is_told_from_a_port() {
        for (reference, repository) in [
            ("registry:5000/trivy-db:2", "registry:5000/trivy-db"),
            ("registry:5000/trivy-db", "registry:5000/trivy-db"),
            (
                "ghcr.io/aquasecurity/trivy-db",
                "ghcr.io/aquasecurity/trivy-db",
            ),
        ] {
            assert_eq!(without_tag(reference), repository);
        }
    }
}
