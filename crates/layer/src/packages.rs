//! Files by which scanners find packages, recognised by their names alone.

use serde::{Deserialize, Serialize};

use crate::path::{EntryPath, file_name};

/// A package manager of an operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PackageManager {
    /// dpkg: Debian, Ubuntu, distroless.
    Dpkg,
    /// apk: Alpine, Wolfi.
    Apk,
    /// rpm: Red Hat, Fedora, SUSE and others.
    Rpm,
    /// pacman: Arch. No scanner of ours reads it.
    Pacman,
    /// Portage: Gentoo. No scanner of ours reads it.
    Portage,
    /// Nix. No scanner of ours reads it.
    Nix,
    /// opkg: `OpenWrt`, Yocto. No scanner of ours reads it.
    Opkg,
}

/// A package database, or one file of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Whose database it is.
    pub manager: PackageManager,
    /// Where it is.
    pub path: EntryPath,
    /// What kind of entry it is; scanners read regular files only.
    pub form: EntryForm,
    /// Its size, 0 for everything but a regular file. An empty database lists no package.
    pub size_bytes: u64,
}

/// What kind of entry has a name that scanners look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryForm {
    /// A regular file.
    File,
    /// A hard link, which scanners skip.
    HardLink,
    /// A symbolic link, which scanners skip.
    Symlink,
    /// It lies in a folder that is reached through a symbolic link.
    ThroughSymlink,
    /// A device or a FIFO.
    Special,
}

/// A kind of packages of a language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Language {
    /// `*.dist-info/METADATA`, `*.egg-info` and the like.
    Python,
    /// `node_modules/**/package.json`.
    Node,
    /// `*.jar`, `*.war`, `*.ear`, `*.par`.
    Java,
    /// `specifications/*.gemspec`.
    Ruby,
    /// `conda-meta/*.json`.
    Conda,
    /// `*.deps.json`.
    Dotnet,
    /// `vendor/composer/installed.json`.
    Composer,
}

/// The metadata of packages of one language in one layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LanguagePackages {
    /// The language.
    pub language: Language,
    /// How many regular files there are.
    pub files: u64,
    /// The first of them, at most [`EXAMPLES`].
    pub examples: Vec<EntryPath>,
    /// How many links have such a name while what they lead to has another: the scanner sees no
    /// package there, and a client does.
    pub disguised: u64,
    /// The first of those, at most [`EXAMPLES`].
    pub disguised_examples: Vec<EntryPath>,
}

/// How many paths of one kind a summary names.
pub const EXAMPLES: usize = 32;

/// The folders in which package databases lie, and every place that leads there.
pub(crate) const DATABASE_FOLDERS: [&[u8]; 11] = [
    b"var/lib/dpkg",
    b"var/lib/dpkg/status.d",
    b"lib/apk/db",
    b"usr/lib/apk/db",
    b"var/lib/rpm",
    b"usr/lib/sysimage/rpm",
    b"usr/share/rpm",
    b"var/lib/rpmmanifest",
    b"var/lib/pacman/local",
    b"var/lib/opkg",
    b"usr/lib/opkg",
];

/// Returns whose databases lie in one of [`DATABASE_FOLDERS`].
pub(crate) fn database_folder_manager(folder: &[u8]) -> PackageManager {
    if folder.starts_with(b"var/lib/dpkg") {
        PackageManager::Dpkg
    } else if folder.ends_with(b"apk/db") {
        PackageManager::Apk
    } else if folder.starts_with(b"var/lib/pacman") {
        PackageManager::Pacman
    } else if folder.ends_with(b"opkg") {
        PackageManager::Opkg
    } else {
        PackageManager::Rpm
    }
}

/// Returns whose database the path belongs to.
pub(crate) fn database(path: &[u8]) -> Option<PackageManager> {
    let (folder, name) = split(path);
    match folder {
        b"var/lib/dpkg" if name == b"status" => Some(PackageManager::Dpkg),
        b"var/lib/dpkg/status.d" if !name.ends_with(b".md5sums") => Some(PackageManager::Dpkg),
        b"lib/apk/db" | b"usr/lib/apk/db" if name == b"installed" => Some(PackageManager::Apk),
        b"var/lib/rpm" | b"usr/lib/sysimage/rpm" | b"usr/share/rpm"
            if [&b"Packages"[..], b"Packages.db", b"rpmdb.sqlite"].contains(&name) =>
        {
            Some(PackageManager::Rpm)
        }
        b"var/lib/rpmmanifest" if name == b"container-manifest-2" => Some(PackageManager::Rpm),
        b"var/lib/pacman/local" if name == b"ALPM_DB_VERSION" => Some(PackageManager::Pacman),
        b"var/lib/opkg" | b"usr/lib/opkg" if name == b"status" => Some(PackageManager::Opkg),
        b"nix/var/nix/db" if name == b"db.sqlite" => Some(PackageManager::Nix),
        _ if path.starts_with(b"var/db/pkg/") && name == b"CONTENTS" => {
            Some(PackageManager::Portage)
        }
        _ => None,
    }
}

/// Returns the language whose packages the file describes.
pub(crate) fn language(path: &[u8]) -> Option<Language> {
    let (folder, name) = split(path);
    let parent = file_name(folder);
    if name == b"METADATA" && parent.ends_with(b".dist-info")
        || name == b"PKG-INFO" && (parent.ends_with(b".egg-info") || parent == b"EGG-INFO")
        || name.ends_with(b".egg-info")
    {
        return Some(Language::Python);
    }
    if name == b"package.json" && has_component(folder, b"node_modules") {
        return Some(Language::Node);
    }
    if name.ends_with(b".json") && parent == b"conda-meta" {
        return Some(Language::Conda);
    }
    if name.ends_with(b".deps.json") {
        return Some(Language::Dotnet);
    }
    if name.ends_with(b".gemspec") && parent == b"specifications" {
        return Some(Language::Ruby);
    }
    if name == b"installed.json" && folder.ends_with(b"vendor/composer") {
        return Some(Language::Composer);
    }
    [&b".jar"[..], b".war", b".ear", b".par"]
        .iter()
        .any(|end| name.len() > end.len() && name.ends_with(end))
        .then_some(Language::Java)
}

/// Returns the language whose packages a folder of this name describes.
pub(crate) fn language_folder(path: &[u8]) -> Option<Language> {
    let name = file_name(path);
    if name.ends_with(b".dist-info") || name.ends_with(b".egg-info") || name == b"EGG-INFO" {
        return Some(Language::Python);
    }
    match name {
        b"conda-meta" => Some(Language::Conda),
        b"specifications" => Some(Language::Ruby),
        _ => None,
    }
}

/// Returns whether scanners take the file for an SBOM that describes what is beside it.
pub(crate) fn is_sbom(path: &[u8]) -> bool {
    let name = file_name(path);
    [&b".cdx.json"[..], b".spdx.json", b".cdx", b".spdx"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// Returns whether the file lies in a folder that Trivy leaves out.
pub(crate) fn is_left_out(path: &[u8]) -> bool {
    let (folder, _) = split(path);
    [&b"proc"[..], b"sys", b"dev"]
        .iter()
        .any(|top| folder.split(|byte| *byte == b'/').next() == Some(top))
        || has_component(folder, b".git")
}

fn has_component(folder: &[u8], wanted: &[u8]) -> bool {
    folder
        .split(|byte| *byte == b'/')
        .any(|component| component == wanted)
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    let name = file_name(path);
    let folder = path
        .get(..path.len().saturating_sub(name.len() + 1))
        .unwrap_or_default();
    (folder, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_are_found_where_scanners_and_package_managers_have_them() {
        for (path, expected) in [
            ("var/lib/dpkg/status", Some(PackageManager::Dpkg)),
            ("var/lib/dpkg/status.d/libc6", Some(PackageManager::Dpkg)),
            ("var/lib/dpkg/status.d/libc6.md5sums", None),
            ("var/lib/dpkg/status-old", None),
            ("lib/apk/db/installed", Some(PackageManager::Apk)),
            ("usr/lib/apk/db/installed", Some(PackageManager::Apk)),
            ("var/lib/rpm/rpmdb.sqlite", Some(PackageManager::Rpm)),
            (
                "usr/lib/sysimage/rpm/Packages.db",
                Some(PackageManager::Rpm),
            ),
            ("var/lib/rpm/Packages", Some(PackageManager::Rpm)),
            ("nix/var/nix/db/db.sqlite", Some(PackageManager::Nix)),
            (
                "var/db/pkg/app-misc/x-1/CONTENTS",
                Some(PackageManager::Portage),
            ),
            ("status", None),
        ] {
            assert_eq!(database(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn packages_of_languages_are_found_by_their_metadata() {
        for (path, expected) in [
            (
                "usr/lib/python3/dist-packages/six-1.dist-info/METADATA",
                Some(Language::Python),
            ),
            ("usr/lib/python3/x.egg-info", Some(Language::Python)),
            ("x.egg-info/PKG-INFO", Some(Language::Python)),
            ("METADATA", None),
            ("app/node_modules/a/package.json", Some(Language::Node)),
            ("app/package.json", None),
            ("opt/conda/conda-meta/a-1.json", Some(Language::Conda)),
            ("app/lib/a.jar", Some(Language::Java)),
            ("a/.jar", None),
            ("g/specifications/a.gemspec", Some(Language::Ruby)),
        ] {
            assert_eq!(language(path.as_bytes()), expected, "{path}");
        }
        assert!(is_sbom(b"opt/bitnami/.spdx-x.spdx") && is_sbom(b"a.cdx.json") && !is_sbom(b"cdx"));
        assert!(
            is_left_out(b"app/.git/a.jar") && is_left_out(b"dev/a") && !is_left_out(b"a/dev/b")
        );
    }
}
