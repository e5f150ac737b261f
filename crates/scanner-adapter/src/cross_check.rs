//! Compares a report with what the layers were seen to hold: what is missing in it was not looked for. Pure.

use std::collections::BTreeSet;

use sluice_layer::{EntryForm, ImageContents, Language, PackageManager};

use crate::distributions::ecosystem;
use crate::report::Summary;

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
const MOST_UNMATCHED: usize = 32;
/// The longest name of one, in characters.
const LONGEST_KIND: usize = 64;

/// Returns why a report does not tell all that is in an image, if it does not.
pub(crate) fn incomplete(contents: &ImageContents, summary: &Summary) -> Option<String> {
    for found in &contents.databases {
        let database = &found.database;
        let path = &database.path;
        if unread(database.manager).is_some() {
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
    if let Some(path) = contents.hidden.first() {
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

/// Returns the kinds of packages in an image that no database is asked for, as Trivy or their package manager is called.
pub(crate) fn unmatched(contents: &ImageContents, summary: &Summary) -> Vec<String> {
    let languages = summary.languages.iter().map(String::as_str);
    let mut kinds: BTreeSet<&str> = languages.filter(|kind| ecosystem(kind).is_none()).collect();
    let databases = contents.databases.iter();
    kinds.extend(databases.filter_map(|found| unread(found.database.manager)));
    if !summary.family.is_empty() && !has_driver(&summary.family) {
        kinds.insert(&summary.family);
    }
    let shown = kinds.into_iter().take(MOST_UNMATCHED);
    shown
        .map(|kind| kind.chars().take(LONGEST_KIND).collect())
        .collect()
}

/// Says whether a family is one whose packages Trivy matches; it lists those of others, or does not.
fn has_driver(family: &str) -> bool {
    DPKG.contains(&family) || APK.contains(&family) || RPM.contains(&family)
}

/// Returns the name of a package manager whose database Trivy does not read.
const fn unread(manager: PackageManager) -> Option<&'static str> {
    match manager {
        PackageManager::Dpkg | PackageManager::Apk | PackageManager::Rpm => None,
        PackageManager::Pacman => Some("pacman"),
        PackageManager::Portage => Some("portage"),
        PackageManager::Nix => Some("nix"),
        PackageManager::Opkg => Some("opkg"),
        // One that a newer reader knows.
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

/// Returns how Trivy calls packages of which it finds some wherever such metadata lies.
///
/// An archive of Java without coordinates, and dependencies of .NET or PHP that name the program alone, are listed as
/// nothing by right.
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
