//! The folder of one running adapter. Replicas that share a parent folder each hold another one.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The most adapters that share a parent folder.
const MAX_ADAPTERS: usize = 64;

/// A folder that no other adapter uses while this is held; that of a killed adapter is free again at once.
#[derive(Debug)]
pub(crate) struct WorkFolder {
    root: PathBuf,
    _lock: File,
}

impl WorkFolder {
    /// Locks the first folder that is free, and removes the temporary files that an earlier run left there.
    ///
    /// `setting` is the key of the parent folder in the settings; errors name it.
    pub(crate) fn claim(parent: &Path, setting: &str) -> anyhow::Result<Self> {
        for number in 0..MAX_ADAPTERS {
            let root = parent.join(format!("adapter-{number}"));
            let problem = || {
                format!(
                    "failed to use `{}`; set `{setting}` to a folder of this service",
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
            // Scanners run in other folders than this process.
            let root = root.canonicalize().with_context(problem)?;
            let folder = Self { root, _lock: lock };
            folder.remove_temporary_files().with_context(problem)?;
            return Ok(folder);
        }
        anyhow::bail!("{MAX_ADAPTERS} adapters use `{}` already", parent.display())
    }

    /// Returns the folder itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the folder of temporary files.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.root.join("work")
    }

    fn remove_temporary_files(&self) -> std::io::Result<()> {
        if self.temporary().exists() {
            fs::remove_dir_all(self.temporary())?;
        }
        fs::create_dir(self.temporary())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_that_share_a_place_get_folders_of_their_own() {
        let place = tempfile::tempdir().unwrap();
        let first = WorkFolder::claim(place.path(), "cache_dir").unwrap();
        let second = WorkFolder::claim(place.path(), "cache_dir").unwrap();
        assert_ne!(first.root, second.root);
        let root = first.root.clone();
        drop(first);
        let third = WorkFolder::claim(place.path(), "cache_dir").unwrap();
        assert_eq!(third.root, root);
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_an_error_with_the_setting() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        fs::write(&file, "").unwrap();
        let error = WorkFolder::claim(&file, "scanner.folder").unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("scanner.folder"), "{error}");
    }
}
