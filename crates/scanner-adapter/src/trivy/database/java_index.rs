//! The index of Java archives, which is large and fetched only when an image has such archives.

use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::Mutex;

use crate::trivy::database::DatabaseOrigin;
use crate::trivy::database::folders::DatabaseFolders;
use crate::trivy::failure::{FailureKind, TrivyFailure};
use crate::trivy::program::TrivyProgram;

/// The age at which the index is fetched again.
const MAX_AGE: TimeDelta = TimeDelta::days(7);

/// The index of Java archives, once it was fetched.
#[derive(Debug, Default)]
pub(crate) struct JavaIndex {
    fetched: Mutex<Option<FetchedIndex>>,
}

#[derive(Debug)]
struct FetchedIndex {
    folder: PathBuf,
    at: DateTime<Utc>,
}

impl FetchedIndex {
    fn is_recent(&self) -> bool {
        Utc::now() - self.at < MAX_AGE
    }
}

impl JavaIndex {
    /// Returns the cache folder that holds the index, or an empty one while there is none.
    pub(crate) async fn folder_or(&self, empty: &Path) -> PathBuf {
        let fetched = self.fetched.lock().await;
        let recent = fetched.as_ref().filter(|index| index.is_recent());
        recent.map_or_else(|| empty.to_owned(), |index| index.folder.clone())
    }

    /// Fetches the index, unless another scan just did.
    pub(crate) async fn fetch(
        &self,
        origin: &DatabaseOrigin,
        program: &TrivyProgram,
        folders: &DatabaseFolders,
    ) -> Result<PathBuf, TrivyFailure> {
        let mut fetched = self.fetched.lock().await;
        if let Some(index) = fetched.as_ref().filter(|index| index.is_recent()) {
            return Ok(index.folder.clone());
        }
        *fetched = None;
        let folder = folders
            .create_java()
            .map_err(|error| TrivyFailure::new(FailureKind::JavaDatabase, error.to_string()))?;
        tracing::info!("fetching the index of Java archives, because an image has some");
        origin.fetch_java(program, &folder).await?;
        *fetched = Some(FetchedIndex {
            folder: folder.clone(),
            at: Utc::now(),
        });
        Ok(folder)
    }
}
