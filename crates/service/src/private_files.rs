//! Folders and files that only their owner can read: state, keys, configurations with passwords.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Creates a folder that only its owner can read; one that exists gets this mode.
pub fn create_private_folder(folder: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(folder)
        .and_then(|()| fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE)))
        .with_context(|| format!("failed to create the folder `{}`", folder.display()))
}

/// Writes a file that only its owner can read, under another name first, so that a crash leaves no partial file.
pub fn write_private_file(file: &Path, content: &str) -> anyhow::Result<()> {
    let mut partial = OsString::from(file);
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let written = match fs::remove_file(&partial) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&partial)
            .and_then(|mut open| {
                open.write_all(content.as_bytes())?;
                open.sync_all()
            })
            .and_then(|()| fs::rename(&partial, file)),
    };
    written.with_context(|| format!("failed to write `{}`", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn folders_and_files_are_private_whatever_existed_before() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("open");
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        let file = folder.join("secret.txt");
        fs::write(&file, "old").unwrap();
        // A run that was killed left half a file.
        fs::write(folder.join("secret.txt.partial"), "half").unwrap();
        create_private_folder(&folder).unwrap();
        write_private_file(&file, "new").unwrap();
        assert_eq!((mode(&folder), mode(&file)), (FOLDER_MODE, FILE_MODE));
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}
