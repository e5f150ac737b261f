//! The package databases and package metadata among the entries, which a scan report must cover.

use crate::error::Error;
use crate::packages::{
    Database, EXAMPLES, EntryForm, Language, LanguagePackages, database, is_left_out, is_sbom,
    language, language_folder,
};
use crate::path::{EntryPath, file_name};

use super::entry::Kind;

/// How many files of package databases a layer may have.
const MAX_DATABASES: usize = 10_000;

/// Files with packages, collected by their names.
#[derive(Default)]
pub(crate) struct Packages {
    pub(crate) databases: Vec<Database>,
    pub(crate) languages: Vec<LanguagePackages>,
    pub(crate) sboms: u64,
    pub(crate) sbom_examples: Vec<EntryPath>,
    pub(crate) left_out: u64,
    pub(crate) left_out_examples: Vec<EntryPath>,
}

impl Packages {
    /// Notes an entry; `target` is the path that a link leads to, by the names alone.
    pub(super) fn add(
        &mut self,
        path: &[u8],
        kind: Kind,
        target: Option<&[u8]>,
        size_bytes: u64,
    ) -> Result<(), Error> {
        let form = match kind {
            Kind::File => EntryForm::File,
            Kind::HardLink => EntryForm::HardLink,
            Kind::Symlink => EntryForm::Symlink,
            Kind::Special => EntryForm::Special,
            _ => return Ok(()),
        };
        if let Some(manager) = database(path) {
            if self.databases.len() >= MAX_DATABASES {
                return Err(Error::Limit {
                    limit: "the number of files of package databases",
                    max: MAX_DATABASES as u64,
                });
            }
            self.databases.push(Database {
                manager,
                path: EntryPath::from_clean(path),
                form,
                size_bytes,
            });
        }
        if kind == Kind::File && is_sbom(path) {
            note(&mut self.sboms, &mut self.sbom_examples, path);
        }
        let Some(found) = language(path).or_else(|| {
            // A link may be one to a folder.
            (kind == Kind::Symlink).then(|| language_folder(path))?
        }) else {
            return Ok(());
        };
        if is_left_out(path) {
            note(&mut self.left_out, &mut self.left_out_examples, path);
            return Ok(());
        }
        let index = match self.languages.iter().position(|l| l.language == found) {
            Some(index) => index,
            None => {
                self.languages.push(LanguagePackages {
                    language: found,
                    files: 0,
                    examples: Vec::new(),
                    disguised: 0,
                    disguised_examples: Vec::new(),
                });
                self.languages.len() - 1
            }
        };
        let Some(packages) = self.languages.get_mut(index) else {
            return Ok(());
        };
        // What a link leads to is scanned if its own name is of the same kind.
        let is_seen = |target: &[u8]| {
            !is_left_out(target)
                && (language(target) == Some(found)
                    // Scanners take every `package.json`, wherever it is.
                    || found == Language::Node && file_name(target) == b"package.json"
                    || kind == Kind::Symlink && language_folder(target) == Some(found))
        };
        match target {
            None if kind == Kind::File => {
                note(&mut packages.files, &mut packages.examples, path);
            }
            Some(target) if !is_seen(target) => {
                note(
                    &mut packages.disguised,
                    &mut packages.disguised_examples,
                    path,
                );
            }
            _ => {}
        }
        Ok(())
    }
}

fn note(count: &mut u64, examples: &mut Vec<EntryPath>, path: &[u8]) {
    *count += 1;
    if examples.len() < EXAMPLES {
        examples.push(EntryPath::from_clean(path));
    }
}
