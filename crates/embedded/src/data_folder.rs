//! The data folder of an installation, used by one process at a time.

use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use sluice_service::{create_private_folder, write_private_file};

/// The folder of secrets in the data folder.
pub const SECRETS: &str = "secrets";
const LOCK_MODE: u32 = 0o600;
/// Other users may traverse a folder, but not list it.
const TRAVERSE_MODE: u32 = 0o711;
const LOCK: &str = "lock";
/// How many times the lock is tried, and the pause between.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// A data folder, locked by this process.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    /// The lock is released when the process ends.
    _lock: File,
}

impl DataFolder {
    /// Opens the folder if an earlier run has created it.
    pub(crate) fn open_existing(path: &Path) -> anyhow::Result<Option<Self>> {
        let is_existing = path.join(LOCK).exists();
        is_existing.then(|| Self::open(path)).transpose()
    }

    /// Opens or creates the folder.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        if !path.join(LOCK).exists()
            && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
        {
            anyhow::bail!(
                "`{shown}` is not empty and not a data folder of Sluice; choose another with --data"
            );
        }
        create_private_folder(path)?;
        let path = path
            .canonicalize()
            .with_context(|| format!("failed to resolve `{shown}`"))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(LOCK_MODE)
            .open(path.join(LOCK))
            .with_context(|| format!("failed to open the lock of `{shown}`"))?;
        match try_lock(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => anyhow::bail!(
                "another `sluice up` is running on `{shown}`; stop it, or choose another folder with --data"
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("failed to lock `{shown}`"));
            }
        }
        let folder = Self { path, _lock: lock };
        for name in [
            "nats", "registry", "keys", "config", "logs", "trivy", SECRETS,
        ] {
            create_private_folder(&folder.path.join(name))?;
        }
        if sluice_service::is_root() {
            // The scanner runs as another user and must traverse these folders; the others stay closed to it.
            for folder in [folder.path.clone(), folder.path.join("trivy")] {
                fs::set_permissions(&folder, Permissions::from_mode(TRAVERSE_MODE)).with_context(
                    || format!("failed to change the permissions of `{}`", folder.display()),
                )?;
            }
        }
        Ok(folder)
    }

    /// Returns the absolute path of the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns an absolute path in the folder.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes the configuration of a server, readable by this user only, and returns its file.
    pub(crate) fn write_config(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let file = self.join("config").join(name);
        write_private_file(&file, text)?;
        Ok(file)
    }

    /// Returns the log file of a server; the log of an earlier run is renamed.
    pub(crate) fn log(&self, server: &str) -> anyhow::Result<PathBuf> {
        let file = self.join("logs").join(format!("{server}.log"));
        if file.exists() {
            fs::rename(&file, file.with_extension("old.log"))
                .with_context(|| format!("failed to rename `{}`", file.display()))?;
        }
        Ok(file)
    }
}

/// Takes the lock; a process that was killed a moment ago may still hold it.
fn try_lock(lock: &File) -> Result<(), TryLockError> {
    for _ in 0..LOCK_TRIES {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => thread::park_timeout(LOCK_PAUSE),
            other => return other,
        }
    }
    lock.try_lock()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_folder_is_used_by_one_process_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let first = DataFolder::open(&path).unwrap();
        let refused = DataFolder::open(&path).unwrap_err().to_string();
        assert!(refused.contains("another `sluice up`"), "{refused}");
        drop(first);
        DataFolder::open(&path).unwrap();
    }

    #[test]
    fn a_folder_of_another_program_is_not_changed() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("thesis.tex"), "").unwrap();
        let refused = DataFolder::open(parent.path()).unwrap_err().to_string();
        assert!(refused.contains("not a data folder"), "{refused}");
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn keys_and_configurations_are_readable_by_the_owner_only() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let data = DataFolder::open(&path).unwrap();
        assert_eq!(mode(&path) & 0o066, 0);
        assert_eq!(mode(&path.join("keys")), 0o700);
        let config = data.write_config("server.conf", "secret").unwrap();
        assert_eq!(mode(&config), 0o600);
    }

    #[test]
    fn the_log_of_the_previous_run_is_kept() {
        let parent = tempfile::tempdir().unwrap();
        let data = DataFolder::open(&parent.path().join("data")).unwrap();
        fs::write(data.log("server").unwrap(), "first").unwrap();
        let file = data.log("server").unwrap();
        assert!(!file.exists());
        let kept = fs::read_to_string(data.join("logs/server.old.log")).unwrap();
        assert_eq!(kept, "first");
    }
}
