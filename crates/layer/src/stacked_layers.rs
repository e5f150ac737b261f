//! The layers of an image stacked on each other: what whiteouts and opaque folders of upper layers remove, and the rules
//! that need all layers.

use std::collections::HashMap;

use crate::error::{LayerRefusal, Rule};
use crate::packages::{
    DATABASE_FOLDERS, Database, EntryForm, Language, PackageManager, database_folder_manager,
};
use crate::path::{EntryPath, PathDigest, ancestors, resolve};
use crate::summary::LayerSummary;

/// What an image contains once its layers are stacked.
///
/// A report that names less than this is incomplete (rule 16).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageContents {
    /// The package databases that a client finds, with the number of their layer, from 0.
    pub databases: Vec<ImageDatabase>,
    /// The languages of which a client finds packages, each with one file that shows it.
    pub languages: Vec<ImageLanguage>,
    /// Metadata of packages that clients find and scanners do not: hard links to files of another
    /// name, and files in folders that are left out.
    pub unscannable_packages: Vec<EntryPath>,
    /// Files that are named like SBOMs, the first of each layer.
    pub sboms: Vec<EntryPath>,
    /// The bytes of all tars.
    pub uncompressed_bytes: u64,
    /// The entries of all tars.
    pub entries: u64,
}

/// A package database of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageDatabase {
    /// The number of the layer that has it, from 0.
    pub layer: usize,
    /// The database.
    pub database: Database,
}

/// Packages of a language in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLanguage {
    /// The number of the layer that has them, from 0.
    pub layer: usize,
    /// The language.
    pub language: Language,
    /// A file that describes one of them.
    pub example: EntryPath,
}

/// Checks layers, the lowest first, against each other, and returns what the image contains.
///
/// # Errors
///
/// [`Rule::Link`] if an entry lies below a symbolic link of a lower layer: overlayfs makes a folder
/// there, other snapshotters write through the link. [`Rule::Header`] if a global extended header
/// has the name of a file of a lower layer, which some clients remove.
pub fn check_layers(layers: &[LayerSummary]) -> Result<ImageContents, LayerRefusal> {
    check_links(layers)?;
    let stack = LayerStack { layers };
    let mut contents = ImageContents::default();
    for (index, layer) in layers.iter().enumerate() {
        contents.uncompressed_bytes = contents
            .uncompressed_bytes
            .saturating_add(layer.uncompressed_bytes);
        contents.entries = contents.entries.saturating_add(layer.entries);
        for database in &layer.databases {
            if stack.is_visible(index, database.path.as_bytes())
                && !stack.is_replaced(index, database)
            {
                contents.databases.push(ImageDatabase {
                    layer: index,
                    database: database.clone(),
                });
            }
        }
        contents.databases.extend(stack.linked_databases(index));
        for packages in &layer.languages {
            let visible = |path: &&EntryPath| stack.is_visible(index, path.as_bytes());
            if let Some(example) = packages.examples.iter().find(visible) {
                contents.languages.push(ImageLanguage {
                    layer: index,
                    language: packages.language,
                    example: example.clone(),
                });
            }
            contents
                .unscannable_packages
                .extend(packages.disguised_examples.iter().filter(visible).cloned());
        }
        let visible = |path: &&EntryPath| stack.is_visible(index, path.as_bytes());
        contents
            .unscannable_packages
            .extend(layer.left_out_examples.iter().filter(visible).cloned());
        contents
            .sboms
            .extend(layer.sbom_examples.iter().filter(visible).cloned());
    }
    Ok(contents)
}

fn check_links(layers: &[LayerSummary]) -> Result<(), LayerRefusal> {
    // The highest layer so far that makes the path a link.
    let mut links: HashMap<PathDigest, usize> = HashMap::new();
    let stack = LayerStack { layers };
    for (index, layer) in layers.iter().enumerate() {
        for folder in &layer.tree.implied_folders {
            let Some(lower) = links.get(&PathDigest::of(folder.as_bytes())) else {
                continue;
            };
            if !stack.is_removed_between(*lower, index, folder.as_bytes()) {
                return Err(LayerRefusal::new(
                    Rule::Link,
                    format!(
                        "layer {index} has entries below `{folder}`, which is a symbolic link in layer {lower}"
                    ),
                ));
            }
        }
        for header in &layer.tree.global_headers {
            if let Some(lower) = layers
                .iter()
                .take(index)
                .position(|lower| lower.tree.called_global_headers.covers(header.as_bytes()))
            {
                return Err(LayerRefusal::new(
                    Rule::Header,
                    format!(
                        "layer {index} has a global extended header called `{header}`, which is a file in layer {lower}"
                    ),
                ));
            }
        }
        links.extend(layer.tree.symlinks.iter().map(|link| (link, index)));
    }
    Ok(())
}

struct LayerStack<'a> {
    layers: &'a [LayerSummary],
}

impl LayerStack<'_> {
    /// Returns whether a layer between two others removes the path of the lower one.
    fn is_removed_between(&self, lower: usize, upper: usize, path: &[u8]) -> bool {
        self.layers
            .iter()
            .take(upper)
            .skip(lower + 1)
            .any(|layer| layer.tree.whiteouts.covers(path) || layer.tree.opaque.covers(path))
    }

    /// Returns whether what a layer has at the path is not removed by those above it.
    fn is_visible(&self, index: usize, path: &[u8]) -> bool {
        !self.layers.iter().skip(index + 1).any(|layer| {
            let tree = &layer.tree;
            tree.whiteouts.covers(path)
                || tree.symlinks.covers(path)
                || ancestors(path).any(|folder| tree.opaque.contains(folder))
        })
    }

    /// Returns whether a layer above has the same database.
    fn is_replaced(&self, index: usize, database: &Database) -> bool {
        self.layers
            .iter()
            .skip(index + 1)
            .flat_map(|layer| &layer.databases)
            .any(|other| other.path == database.path)
    }

    /// Returns the databases to which a link of the layer leads, unless it leads to a folder that
    /// scanners read anyway (`lib` to `usr/lib`, `var/lib/rpm` to `usr/lib/sysimage/rpm`).
    fn linked_databases(&self, index: usize) -> Vec<ImageDatabase> {
        let mut found = Vec::new();
        let links = self
            .layers
            .get(index)
            .map(|layer| &layer.tree.database_links);
        for (link, target) in links.into_iter().flatten() {
            let above = self.layers.iter().skip(index + 1);
            let is_replaced = above
                .flat_map(|layer| &layer.tree.database_parents)
                .any(|path| path == link);
            if is_replaced || !self.is_visible(index, link.as_bytes()) {
                continue;
            }
            for folder in DATABASE_FOLDERS {
                let Some(rest) = rest_below(folder, link.as_bytes()) else {
                    continue;
                };
                let place = resolve(link.as_bytes(), target.as_bytes(), rest);
                if place.is_none_or(|place| !DATABASE_FOLDERS.contains(&place.as_slice())) {
                    found.push(ImageDatabase {
                        layer: index,
                        database: linked(database_folder_manager(folder), folder),
                    });
                }
            }
        }
        found
    }
}

fn linked(manager: PackageManager, folder: &[u8]) -> Database {
    Database {
        manager,
        path: EntryPath::from_clean(folder),
        form: EntryForm::ThroughSymlink,
        size_bytes: 0,
    }
}

/// What is left of a folder below a link, if it lies there.
fn rest_below<'a>(folder: &'a [u8], link: &[u8]) -> Option<&'a [u8]> {
    let rest = folder.strip_prefix(link)?;
    (rest.is_empty() || rest.starts_with(b"/")).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_by_their_names() {
        for (link, target, rest, place) in [
            ("lib", "usr/lib", "/apk/db", Some("usr/lib/apk/db")),
            (
                "var/lib/rpm",
                "../../usr/lib/sysimage/rpm",
                "",
                Some("usr/lib/sysimage/rpm"),
            ),
            (
                "var/lib/dpkg",
                "/data/./dpkg",
                "/status.d",
                Some("data/dpkg/status.d"),
            ),
            ("var", "../..", "/lib/dpkg", None),
        ] {
            let found = resolve(link.as_bytes(), target.as_bytes(), rest.as_bytes());
            assert_eq!(found.as_deref(), place.map(str::as_bytes), "{link}");
        }
        assert_eq!(rest_below(b"var/lib/dpkg", b"var/li"), None);
        assert_eq!(rest_below(b"var/lib/dpkg", b"var"), Some(&b"/lib/dpkg"[..]));
    }
}
