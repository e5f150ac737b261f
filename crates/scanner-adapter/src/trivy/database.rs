//! Fetches databases with Trivy itself, each into an empty folder, so that a running server keeps its own.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::trivy::failure::{FailureKind, TrivyFailure};
use crate::trivy::program::{TrivyProgram, Variables, path_argument};
use crate::trivy::settings::TrivySettings;

pub(crate) mod advisory_buckets;
pub(crate) mod coverage;
pub(crate) mod folders;
pub(crate) mod java_index;
pub(crate) mod plausibility;
pub(crate) mod supported_distributions;
pub(crate) mod supported_ecosystems;

/// How long a download may take; Trivy's database has some 60 MB, the index of Java archives some 700.
const LIMIT: Duration = Duration::from_secs(1_800);
/// The age at which a newer database is fetched, whatever the present one says of its next update.
const UPDATE_AGE: chrono::TimeDelta = chrono::TimeDelta::hours(24);

/// The repositories from which databases are fetched.
#[derive(Debug, Clone)]
pub(crate) struct DatabaseOrigin {
    repository: String,
    java_repository: String,
    insecure: bool,
}

/// The metadata beside a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DatabaseMetadata {
    /// When the database was made.
    pub(crate) updated_at: DateTime<Utc>,
    /// The time before which its publisher makes no newer one.
    pub(crate) next_update: DateTime<Utc>,
}

impl DatabaseMetadata {
    /// Returns when to check for a newer database.
    pub(crate) fn next_check_at(&self) -> DateTime<Utc> {
        let latest = self.updated_at.checked_add_signed(UPDATE_AGE);
        latest.map_or(self.next_update, |latest| latest.min(self.next_update))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MetadataFile {
    updated_at: String,
    next_update: String,
}

impl DatabaseOrigin {
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
    pub(crate) async fn fetch(
        &self,
        program: &TrivyProgram,
        folder: &Path,
    ) -> Result<DatabaseMetadata, TrivyFailure> {
        let options = ["--download-db-only", "--db-repository"];
        self.download(program, folder, options, &self.repository)
            .await
            .map_err(|failure| TrivyFailure::new(FailureKind::DatabaseDownload, failure.message))?;
        read_metadata(&folder.join("db"))
    }

    /// Fetches the index of Java archives into a folder.
    pub(crate) async fn fetch_java(
        &self,
        program: &TrivyProgram,
        folder: &Path,
    ) -> Result<(), TrivyFailure> {
        let options = ["--download-java-db-only", "--java-db-repository"];
        self.download(program, folder, options, &self.java_repository)
            .await
            .map_err(|failure| TrivyFailure::new(FailureKind::JavaDatabase, failure.message))
    }

    /// Runs Trivy without the account of the internal registry, which other registries must not get.
    async fn download(
        &self,
        program: &TrivyProgram,
        folder: &Path,
        [only, from]: [&str; 2],
        repository: &str,
    ) -> Result<(), TrivyFailure> {
        let mut arguments = vec![
            "image".to_owned(),
            only.to_owned(),
            "--no-progress".to_owned(),
        ];
        arguments.extend(["--cache-dir".to_owned(), path_argument(folder)]);
        if !repository.is_empty() {
            arguments.extend([from.to_owned(), repository.to_owned()]);
        }
        if self.insecure {
            arguments.push("--insecure".to_owned());
        }
        program
            .run(folder, &arguments, &Variables::for_download(), LIMIT)
            .await
    }
}

/// Returns a reference without its tag: Trivy accepts either a tag or a digest.
fn without_tag(reference: &str) -> &str {
    match reference.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => reference,
    }
}

/// Reads the metadata beside a database.
///
/// # Errors
/// [`FailureKind::DatabaseMissing`] where there is none; [`FailureKind::Unknown`] where it cannot be read.
pub(crate) fn read_metadata(folder: &Path) -> Result<DatabaseMetadata, TrivyFailure> {
    let missing = |reason: String| TrivyFailure::new(FailureKind::DatabaseMissing, reason);
    let bytes =
        std::fs::read(folder.join("metadata.json")).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => missing(error.to_string()),
            _ => error.into(),
        })?;
    let file: MetadataFile =
        serde_json::from_slice(&bytes).map_err(|error| missing(error.to_string()))?;
    let time = |text: &str| {
        text.parse::<DateTime<Utc>>()
            .map_err(|error| missing(format!("`{}` is no time: {error}", text.escape_default())))
    };
    Ok(DatabaseMetadata {
        updated_at: time(&file.updated_at)?,
        next_update: time(&file.next_update)?,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_metadata_of_a_database_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(folder.path().join("metadata.json"), text).unwrap();
        assert!(read_metadata(folder.path()).is_err());
        for wrong in ["", "{}", r#"{"UpdatedAt":"soon","NextUpdate":"later"}"#] {
            write(wrong);
            assert_eq!(
                read_metadata(folder.path()).unwrap_err().kind,
                FailureKind::DatabaseMissing,
                "{wrong}"
            );
        }
        write(
            r#"{"Version":2,"NextUpdate":"2026-11-03T00:00:00Z","UpdatedAt":"2026-11-02T00:00:00.5Z"}"#,
        );
        let read = read_metadata(folder.path()).unwrap();
        assert!(read.updated_at < read.next_update);
    }

    #[test]
    fn a_database_cannot_postpone_the_check_for_the_next_one() {
        let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let updated_at = time("2026-11-02T00:00:00Z");
        for (next_update, next_check_at) in [
            ("2026-11-02T06:00:00Z", "2026-11-02T06:00:00Z"),
            ("2100-01-01T00:00:00Z", "2026-11-03T00:00:00Z"),
        ] {
            let next_update = time(next_update);
            let read = DatabaseMetadata {
                updated_at,
                next_update,
            };
            assert_eq!(read.next_check_at(), time(next_check_at));
        }
    }

    #[test]
    fn a_tag_is_distinguished_from_a_port() {
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
