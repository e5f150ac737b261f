//! Compares a report with what the layers hold: Trivy did not read packages that the report lacks. Pure.

use std::collections::BTreeSet;

use sluice_layer::{EntryForm, ImageContents, Language, PackageManager};

use crate::scanner::Summary;
use crate::trivy::database::supported_ecosystems::ecosystem;

/// The families of operating systems that Trivy matches, by their package manager (`pkg/detector/ospkg` of Trivy 0.59).
const DPKG: [&str; 2] = ["debian", "ubuntu"];
const APK: [&str; 3] = ["alpine", "chainguard", "wolfi"];
const RPM: [&str; 14] = [
    "alma",
    "amazon",
    "azurelinux",
    "cbl-mariner",
    "centos",
    "opensuse-leap",
    "opensuse-tumbleweed",
    "oracle",
    "photon",
    "redhat",
    "rocky",
    "slem",
    "sles",
    "suse linux enterprise server",
];
/// The most kinds that a verdict names.
const MAX_UNMATCHED: usize = 32;
/// The most characters of a kind.
const MAX_KIND_CHARS: usize = 64;

/// Returns what the layers of an image hold and the report lacks, if there is anything.
pub(crate) fn incomplete(contents: &ImageContents, summary: &Summary) -> Option<String> {
    for found in &contents.databases {
        let database = &found.database;
        let path = &database.path;
        if unsupported_manager(database.manager).is_some() {
            continue;
        }
        if database.form != EntryForm::File {
            return Some(format!(
                "the package database `{path}` in layer {} is a link or a special file, which the scanner does not read",
                found.layer
            ));
        }
        if database.size_bytes == 0 {
            continue;
        }
        if summary.os_packages == 0 {
            return Some(format!(
                "layer {} has the package database `{path}`, and the scanner lists no package of it",
                found.layer
            ));
        }
        if manager_of(&summary.family) != Some(database.manager) {
            return Some(format!(
                "layer {} has the package database `{path}`, and the scanner took the packages for those of `{}`",
                found.layer, summary.os
            ));
        }
    }
    if let Some(path) = contents.unscannable_packages.first() {
        return Some(format!(
            "`{path}` describes packages at a place where the scanner does not look"
        ));
    }
    for packages in &contents.languages {
        if let Some(kind) = kind_of(packages.language)
            && !summary.languages.contains(kind)
        {
            return Some(format!(
                "layer {} has `{}`, and the scanner lists no package of the kind `{kind}`",
                packages.layer, packages.example
            ));
        }
    }
    None
}

/// Returns the kinds of packages in an image that are matched with no database, by the names of Trivy or of the package
/// manager.
pub(crate) fn unmatched(contents: &ImageContents, summary: &Summary) -> Vec<String> {
    let languages = summary.languages.iter().map(String::as_str);
    let mut kinds: BTreeSet<&str> = languages.filter(|kind| ecosystem(kind).is_none()).collect();
    let databases = contents.databases.iter();
    kinds.extend(databases.filter_map(|found| unsupported_manager(found.database.manager)));
    if !summary.family.is_empty() && !is_matched(&summary.family) {
        kinds.insert(&summary.family);
    }
    let shown = kinds.into_iter().take(MAX_UNMATCHED);
    shown
        .map(|kind| kind.chars().take(MAX_KIND_CHARS).collect())
        .collect()
}

/// Says whether Trivy matches the packages of a family.
fn is_matched(family: &str) -> bool {
    DPKG.contains(&family) || APK.contains(&family) || RPM.contains(&family)
}

/// Returns the name of a package manager whose database Trivy does not read.
const fn unsupported_manager(manager: PackageManager) -> Option<&'static str> {
    match manager {
        PackageManager::Dpkg | PackageManager::Apk | PackageManager::Rpm => None,
        PackageManager::Pacman => Some("pacman"),
        PackageManager::Portage => Some("portage"),
        PackageManager::Nix => Some("nix"),
        PackageManager::Opkg => Some("opkg"),
        // A package manager that a newer reader of layers knows.
        _ => Some("unknown"),
    }
}

fn manager_of(family: &str) -> Option<PackageManager> {
    let all = [
        (PackageManager::Dpkg, DPKG.as_slice()),
        (PackageManager::Apk, &APK),
        (PackageManager::Rpm, &RPM),
    ];
    let found = all
        .into_iter()
        .find(|(_, families)| families.contains(&family));
    found.map(|(manager, _)| manager)
}

/// Returns Trivy's name of the packages of a language, if it lists some wherever there is metadata of them.
///
/// It rightly lists nothing for an archive of Java without coordinates, and for dependencies of .NET or PHP that name the
/// program alone.
const fn kind_of(language: Language) -> Option<&'static str> {
    match language {
        Language::Python => Some("python-pkg"),
        Language::Node => Some("node-pkg"),
        Language::Ruby => Some("gemspec"),
        Language::Conda => Some("conda-pkg"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
