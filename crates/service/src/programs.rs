//! Trusted programs: those that only root and the user of this process could have written or replaced.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use thiserror::Error;

/// The most symbolic links that are followed, as in the kernel.
const MAX_LINKS: usize = 40;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Why a program is not trusted.
#[derive(Debug, Error)]
pub enum UntrustedProgram {
    /// It cannot be read.
    #[error("`{}` cannot be run", path.display())]
    Unreadable {
        /// The program, or a folder or link on the way to it.
        path: PathBuf,
        /// The I/O error.
        source: io::Error,
    },
    /// It is not a regular file, or its links lead in a circle.
    #[error("`{}` is not a file", path.display())]
    NoFile {
        /// The program.
        path: PathBuf,
    },
    /// The program, or a folder or link on the way to it, belongs to another user.
    #[error(
        "`{}` is not run: `{}` belongs to user {owner}, who could replace it; `chown` it to root or to the user that \
         runs this, or put the program elsewhere",
        program.display(),
        path.display()
    )]
    ForeignOwner {
        /// The program.
        program: PathBuf,
        /// The file, folder or link.
        path: PathBuf,
        /// The id of its owner.
        owner: u32,
    },
    /// The program, or a folder on the way to it, can be written by others than its owner.
    #[error(
        "`{}` is not run: others can write to `{}` (mode {mode:o}); `chmod go-w` it, or put the program elsewhere",
        program.display(),
        path.display()
    )]
    WritableByOthers {
        /// The program.
        program: PathBuf,
        /// The file or folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// Checks that only root and the user of this process can replace a program, and returns its absolute path.
///
/// The file and each folder and symbolic link on the way from `/` are checked. A folder that others can write to is
/// accepted if it is sticky, as `/tmp` is: there no user can replace a file of another.
pub fn check_program(program: &Path) -> Result<PathBuf, UntrustedProgram> {
    let absolute = std::path::absolute(program).map_err(|source| UntrustedProgram::Unreadable {
        path: program.to_owned(),
        source,
    })?;
    let user = rustix::process::geteuid().as_raw();
    check_path(&absolute, user)?;
    Ok(absolute)
}

/// Says whether this process runs as root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Finds the first trusted program of one of these names in a search path, which is `PATH` by default.
///
/// # Errors
/// Why the first program that was found is not trusted, if none is.
pub fn find_program(
    names: &[&str],
    search_path: Option<&OsStr>,
) -> Result<Option<PathBuf>, UntrustedProgram> {
    let folders = search_path.map(OsStr::to_owned);
    let folders = folders.or_else(|| std::env::var_os("PATH"));
    let mut refused = None;
    for name in names {
        for folder in std::env::split_paths(&folders.clone().unwrap_or_default()) {
            let program = folder.join(name);
            // A relative folder depends on where the command is called.
            if folder.is_relative() || !program.is_file() {
                continue;
            }
            match check_program(&program) {
                Ok(program) => return Ok(Some(program)),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
    }
    refused.map_or(Ok(None), Err)
}

fn check_path(program: &Path, user: u32) -> Result<(), UntrustedProgram> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| UntrustedProgram::Unreadable { path, source }
    };
    let no_file = || UntrustedProgram::NoFile {
        path: program.to_owned(),
    };
    let mut remaining: VecDeque<OsString> = parts(program);
    let mut at = PathBuf::from("/");
    let mut about = fs::symlink_metadata(&at).map_err(unreadable(&at))?;
    let mut links = 0;
    check_owner_and_mode(program, &at, &about, user)?;
    while let Some(part) = remaining.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        about = fs::symlink_metadata(&next).map_err(unreadable(&next))?;
        check_owner_and_mode(program, &next, &about, user)?;
        if about.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Err(no_file());
            }
            let target = fs::read_link(&next).map_err(unreadable(&next))?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            let mut expanded = parts(&target);
            expanded.append(&mut remaining);
            remaining = expanded;
        } else {
            at = next;
        }
    }
    if about.is_file() {
        Ok(())
    } else {
        Err(no_file())
    }
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// Checks one file, folder or link on the way to a program.
fn check_owner_and_mode(
    program: &Path,
    path: &Path,
    about: &Metadata,
    user: u32,
) -> Result<(), UntrustedProgram> {
    let owner = about.uid();
    if owner != 0 && owner != user {
        return Err(UntrustedProgram::ForeignOwner {
            program: program.to_owned(),
            path: path.to_owned(),
            owner,
        });
    }
    let mode = about.mode() & 0o7777;
    let is_shared = about.is_dir() && mode & STICKY != 0;
    // The mode of a link has no effect.
    if about.is_symlink() || is_shared || mode & WRITABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    Err(UntrustedProgram::WritableByOthers {
        program: program.to_owned(),
        path: path.to_owned(),
        mode,
    })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use tempfile::TempDir;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// Makes `bin/tool` in a folder of its own.
    fn tool() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        set_mode(folder.path(), 0o755);
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        set_mode(&bin, 0o755);
        let tool = bin.join("tool");
        fs::write(&tool, "#!/bin/sh\n").unwrap();
        set_mode(&tool, 0o755);
        (folder, tool)
    }

    fn writable(program: &Path) -> PathBuf {
        match check_program(program).unwrap_err() {
            UntrustedProgram::WritableByOthers { path, .. } => path,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_program_that_others_cannot_replace_is_run() {
        let (_folder, tool) = tool();
        assert_eq!(check_program(&tool).unwrap(), tool);
        assert!(check_program(Path::new("/bin/sh")).is_ok());
    }

    #[test]
    fn a_program_in_a_folder_that_others_can_write_to_is_not_run() {
        let (folder, tool) = tool();
        let bin = tool.parent().unwrap();
        for (path, open, closed) in [
            (&*tool, 0o777, 0o755),
            (&*tool, 0o775, 0o755),
            (bin, 0o777, 0o755),
            (bin, 0o775, 0o755),
            (folder.path(), 0o757, 0o700),
        ] {
            set_mode(path, open);
            assert_eq!(writable(&tool), path);
            let error = check_program(&tool).unwrap_err().to_string();
            assert!(error.contains("chmod go-w") && error.contains(&format!("{open:o}")));
            set_mode(path, closed);
            assert!(check_program(&tool).is_ok());
        }
        // As `/tmp` is: others may add to it, and replace nothing in it.
        set_mode(bin, 0o1777);
        assert!(check_program(&tool).is_ok());
    }

    #[test]
    fn a_link_is_followed_through_folders_that_are_checked_too() {
        let (_open, real) = tool();
        let (_closed, other) = tool();
        let link = other.with_file_name("link");
        symlink(&real, &link).unwrap();
        assert!(check_program(&link).is_ok());
        set_mode(real.parent().unwrap(), 0o777);
        assert_eq!(writable(&link), real.parent().unwrap());
        let relative = other.with_file_name("relative");
        let name = real.strip_prefix(real.ancestors().nth(3).unwrap()).unwrap();
        symlink(Path::new("../..").join(name), &relative).unwrap();
        assert_eq!(writable(&relative), real.parent().unwrap());
        let circle = other.with_file_name("circle");
        symlink(&circle, &circle).unwrap();
        let error = check_program(&circle).unwrap_err();
        assert!(matches!(error, UntrustedProgram::NoFile { .. }), "{error}");
    }

    #[test]
    fn a_program_of_another_user_is_not_run() {
        let (_folder, tool) = tool();
        let owner = fs::metadata(&tool).unwrap().uid();
        let other_user = if owner == 0 {
            // Only root can change the owner of a file, and files of root are trusted.
            std::os::unix::fs::chown(&tool, Some(12_345), None).unwrap();
            owner
        } else {
            owner + 1
        };
        let error = check_path(&tool, other_user).unwrap_err();
        assert!(matches!(error, UntrustedProgram::ForeignOwner { .. }));
        assert!(error.to_string().contains("chown"), "{error}");
    }

    #[test]
    fn of_a_search_path_only_what_is_trusted_is_found() {
        let (_a, open) = tool();
        let (_b, closed) = tool();
        set_mode(open.parent().unwrap(), 0o777);
        let folders = [open.parent().unwrap(), closed.parent().unwrap()];
        let path = std::env::join_paths(folders).unwrap();
        assert_eq!(find_program(&["tool"], Some(&path)).unwrap(), Some(closed));
        let path = std::env::join_paths([open.parent().unwrap(), Path::new(".")]).unwrap();
        assert!(find_program(&["tool"], Some(&path)).is_err());
        assert_eq!(find_program(&["none"], Some(&path)).unwrap(), None);
    }
}
