//! The folders of the databases that were fetched. Each fetch gets a folder of its own.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::image::work_folder::WorkFolder;

/// The prefix of the folders of vulnerability databases; a number that grows follows.
const DATABASE: &str = "database-";
/// The file in such a folder that says that the database is complete.
const FETCHED: &str = "fetched";
/// The file in such a folder that says that the database was compared with the one before it, and was used.
const ACCEPTED: &str = "accepted";

/// The folders of databases in the folder of the adapter.
#[derive(Debug, Clone)]
pub(crate) struct DatabaseFolders(Arc<WorkFolder>);

impl DatabaseFolders {
    /// Opens the folders, and removes those of fetches that were interrupted.
    pub(crate) fn open(adapter: Arc<WorkFolder>) -> io::Result<Self> {
        let folders = Self(adapter);
        // Besides the database that was used there is at most one that is complete and could not be tried yet.
        let complete = folders.complete();
        for (_, path) in folders.all() {
            if !complete.contains(&path) {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(folders)
    }

    /// Returns the folders of complete vulnerability databases, newest first.
    pub(crate) fn complete(&self) -> Vec<PathBuf> {
        let all = self.all().into_iter().rev().map(|(_, path)| path);
        all.filter(|path| path.join(FETCHED).exists()).collect()
    }

    /// Makes an empty folder for a vulnerability database.
    pub(crate) fn create(&self) -> io::Result<PathBuf> {
        let number = self.all().pop().map_or(0, |(number, _)| number + 1);
        let path = self.0.root().join(format!("{DATABASE}{number}"));
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// Makes an empty folder for the index of Java archives.
    pub(crate) fn create_java(&self) -> io::Result<PathBuf> {
        let path = self.0.root().join("java");
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// Lists the folders of vulnerability databases, oldest first.
    fn all(&self) -> Vec<(u64, PathBuf)> {
        let Ok(entries) = fs::read_dir(self.0.root()) else {
            return Vec::new();
        };
        let mut databases: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name();
                let number = name.to_str()?.strip_prefix(DATABASE)?.parse().ok()?;
                Some((number, entry.path()))
            })
            .collect();
        databases.sort();
        databases
    }
}

/// Notes that a database is complete.
pub(crate) fn mark_fetched(database: &Path) -> io::Result<()> {
    mark(&database.join(FETCHED))
}

/// Notes that a database was compared with the one before it, and is used.
pub(crate) fn mark_accepted(database: &Path) -> io::Result<()> {
    mark(&database.join(ACCEPTED))
}

/// Makes an empty file, unless it is there; the scanner may write in the folder, so no link is followed.
fn mark(path: &Path) -> io::Result<()> {
    match File::create_new(path) {
        Ok(file) => file.sync_all(),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Says whether a database was already used.
pub(crate) fn is_accepted(database: &Path) -> bool {
    database.join(ACCEPTED).exists()
}

/// Removes the folder of a database; one that stays is removed at the next start.
pub(crate) fn discard(database: &Path) {
    if let Err(error) = fs::remove_dir_all(database) {
        tracing::warn!(%error, folder = %database.display(), "failed to remove the folder of a database");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(place: &Path) -> (Arc<WorkFolder>, DatabaseFolders) {
        let adapter = Arc::new(WorkFolder::claim(place, "cache_dir").unwrap());
        let folders = DatabaseFolders::open(adapter.clone()).unwrap();
        (adapter, folders)
    }

    #[test]
    fn a_database_that_was_fetched_outlives_an_adapter_and_a_part_of_one_does_not() {
        let place = tempfile::tempdir().unwrap();
        let (adapter, folders) = claim(place.path());
        assert!(folders.complete().is_empty());
        let paths: Vec<_> = (0..11).map(|_| folders.create().unwrap()).collect();
        // The adapter was killed while it fetched the last one.
        mark_fetched(&paths[9]).unwrap();
        mark_accepted(&paths[9]).unwrap();
        fs::write(paths[10].join("part"), "of one").unwrap();
        fs::write(adapter.temporary().join("left"), "over").unwrap();
        drop((adapter, folders));
        let (adapter, folders) = claim(place.path());
        assert_eq!(folders.complete(), [paths[9].clone()]);
        assert!(is_accepted(&paths[9]));
        assert!(!paths[8].exists() && !paths[10].exists());
        assert_eq!(fs::read_dir(adapter.temporary()).unwrap().count(), 0);
    }
}
