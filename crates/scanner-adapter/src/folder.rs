//! The folder of one running adapter: replicas that share `trivy.cache_dir` each hold another one.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The most adapters that share a place.
const MOST: usize = 64;
/// How the folders of databases are called, with a number that grows.
const DATABASE: &str = "database-";
/// The file in such a folder that says that everything of the database was fetched.
const FETCHED: &str = "fetched";
/// The file in such a folder that says that the database was compared with the one before it, and was used.
const ACCEPTED: &str = "accepted";

/// A folder that nobody else uses while this is held; a killed adapter's is free again at once.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    _lock: File,
}

impl Folder {
    /// Takes the first folder that is free, and removes what a run before left unfinished there.
    ///
    /// # Errors
    /// A place that cannot be written to.
    pub(crate) fn claim(cache_dir: &Path) -> anyhow::Result<Self> {
        for number in 0..MOST {
            let root = cache_dir.join(format!("adapter-{number}"));
            let problem = || {
                format!(
                    "failed to use `{}`; set `trivy.cache_dir` to a folder of this service",
                    root.display()
                )
            };
            fs::create_dir_all(&root).with_context(problem)?;
            let lock = File::create(root.join("lock")).with_context(problem)?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(error).with_context(problem),
            }
            // Trivy runs in other folders than ours.
            let root = root.canonicalize().with_context(problem)?;
            let folder = Self { root, _lock: lock };
            folder.clean().with_context(problem)?;
            return Ok(folder);
        }
        anyhow::bail!("{MOST} adapters use `{}` already", cache_dir.display())
    }

    /// Returns the folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns where runs of Trivy have their temporary files.
    pub(crate) fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// Returns the folders of the databases that were fetched, newest first.
    pub(crate) fn fetched(&self) -> Vec<PathBuf> {
        let all = self.databases().into_iter().rev().map(|(_, path)| path);
        all.filter(|path| path.join(FETCHED).exists()).collect()
    }

    /// Makes an empty folder for a database.
    ///
    /// # Errors
    /// A place that cannot be written to.
    pub(crate) fn next(&self) -> std::io::Result<PathBuf> {
        let number = self.databases().pop().map_or(0, |(number, _)| number + 1);
        let path = self.root.join(format!("{DATABASE}{number}"));
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// Makes an empty folder for the index of Java archives.
    ///
    /// # Errors
    /// A place that cannot be written to.
    pub(crate) fn java(&self) -> std::io::Result<PathBuf> {
        let path = self.root.join("java");
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir(&path)?;
        Ok(path)
    }

    fn clean(&self) -> std::io::Result<()> {
        if self.work().exists() {
            fs::remove_dir_all(self.work())?;
        }
        fs::create_dir(self.work())?;
        // Besides the one that was used there is at most one that was fetched and could not be tried yet.
        let kept = self.fetched();
        for (_, path) in self.databases() {
            if !kept.contains(&path) {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }

    /// Lists the folders of databases, oldest first.
    fn databases(&self) -> Vec<(u64, PathBuf)> {
        let Ok(entries) = fs::read_dir(&self.root) else {
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

/// Notes that everything of a database is there.
///
/// # Errors
/// A folder that cannot be written to.
pub(crate) fn mark_fetched(database: &Path) -> std::io::Result<()> {
    mark(&database.join(FETCHED))
}

/// Notes that a database was compared with the one before it, and is used.
///
/// # Errors
/// A folder that cannot be written to.
pub(crate) fn mark_accepted(database: &Path) -> std::io::Result<()> {
    mark(&database.join(ACCEPTED))
}

/// Makes an empty file, unless it is there; the scanner may write in the folder, so no link is followed.
fn mark(path: &Path) -> std::io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_that_share_a_place_get_folders_of_their_own() {
        let place = tempfile::tempdir().unwrap();
        let first = Folder::claim(place.path()).unwrap();
        let second = Folder::claim(place.path()).unwrap();
        assert_ne!(first.root, second.root);
        let root = first.root.clone();
        drop(first);
        assert_eq!(Folder::claim(place.path()).unwrap().root, root);
    }

    #[test]
    fn a_database_that_was_fetched_outlives_an_adapter_and_a_part_of_one_does_not() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::claim(place.path()).unwrap();
        assert!(folder.fetched().is_empty());
        let paths: Vec<_> = (0..11).map(|_| folder.next().unwrap()).collect();
        // The adapter was killed while it fetched the last one.
        mark_fetched(&paths[9]).unwrap();
        mark_accepted(&paths[9]).unwrap();
        fs::write(paths[10].join("part"), "of one").unwrap();
        fs::write(folder.work().join("left"), "over").unwrap();
        drop(folder);
        let folder = Folder::claim(place.path()).unwrap();
        assert_eq!(folder.fetched(), [paths[9].clone()]);
        assert!(is_accepted(&paths[9]));
        assert!(!paths[8].exists() && !paths[10].exists());
        assert_eq!(fs::read_dir(folder.work()).unwrap().count(), 0);
    }

    #[test]
    fn a_place_that_is_none_is_told_with_the_setting() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        let error = format!("{:#}", Folder::claim(&file).unwrap_err());
        assert!(error.contains("trivy.cache_dir"), "{error}");
    }
}
