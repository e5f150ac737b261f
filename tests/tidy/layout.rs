//! How the files of a crate lie: few in a folder, and no two that import each other, directly or in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use sluice_tests::root;
use syn::visit::{self, Visit};
use syn::{Attribute, ItemMod, ItemUse, UseTree};

use crate::{short, sources};

/// More than so many in one folder means that a concept has no name.
const MAX_ENTRIES: usize = 12;

/// The path of a module within its crate; empty for `lib.rs`.
type Module = Vec<String>;

fn crates() -> Vec<PathBuf> {
    let folders = fs::read_dir(root().join("crates")).unwrap();
    folders
        .map(|folder| folder.unwrap().path().join("src"))
        .collect()
}

#[test]
fn no_folder_of_a_crate_holds_more_than_twelve_files() {
    let mut entries: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
    let all = sources();
    for source in crates() {
        for file in all.iter().filter(|file| file.starts_with(&source)) {
            let mut below = file.as_path();
            while below != source {
                let folder = below.parent().unwrap();
                // A file and the folder of its submodules are one entry.
                let entry = below.with_extension("");
                entries.entry(folder.to_owned()).or_default().insert(entry);
                below = folder;
            }
        }
    }
    for (folder, entries) in entries {
        // `lib.rs` and `main.rs` are what cargo asks for.
        let own = |entry: &&PathBuf| !entry.ends_with("lib") && !entry.ends_with("main");
        let count = entries.iter().filter(own).count();
        assert!(
            count <= MAX_ENTRIES,
            "{} holds {count} files",
            short(&folder)
        );
    }
}

#[test]
fn imports_inside_a_crate_run_one_way() {
    let mut circles = Vec::new();
    for folder in crates() {
        let files = modules(&folder);
        let mut imports: BTreeMap<&Module, BTreeSet<&Module>> = BTreeMap::new();
        for (module, file) in &files {
            imports.insert(module, imports_of(module, file, &files));
        }
        for circle in circles_in(imports) {
            circles.push(format!("{}: {circle:?}", short(&folder)));
        }
    }
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn a_circle_is_found() {
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| vec![name.to_owned()]);
    let imports = BTreeMap::from([
        (&a, BTreeSet::from([&b])),
        (&b, BTreeSet::from([&c, &d])),
        (&c, BTreeSet::from([&b])),
        (&d, BTreeSet::new()),
    ]);
    assert_eq!(circles_in(imports), [["b", "c"]]);

    let files = BTreeMap::from([(Module::new(), PathBuf::new()), (a.clone(), PathBuf::new())]);
    let mut collector = Collector::new(vec!["b".to_owned()], &files);
    let source = "use crate::{a::{X, y as z}, Root}; #[cfg(test)] mod tests { use crate::q::W; }";
    collector.visit_file(&syn::parse_str(source).unwrap());
    assert_eq!(collector.found, BTreeSet::from([&Module::new(), &a]));
}

fn modules(folder: &Path) -> BTreeMap<Module, PathBuf> {
    let own = sources()
        .into_iter()
        .filter(|file| file.starts_with(folder));
    own.filter(|file| !file.ends_with("main.rs"))
        .map(|file| {
            let path = file.strip_prefix(folder).unwrap().with_extension("");
            let names = path.iter().map(|name| name.to_str().unwrap().to_owned());
            let module = names.filter(|name| name != "lib").collect();
            (module, file)
        })
        .collect()
}

fn imports_of<'a>(
    module: &Module,
    file: &Path,
    files: &'a BTreeMap<Module, PathBuf>,
) -> BTreeSet<&'a Module> {
    let source = fs::read_to_string(file).unwrap();
    let mut collector = Collector::new(module.clone(), files);
    collector.visit_file(&syn::parse_file(&source).unwrap());
    // What `lib.rs` exports it does not use.
    if module.is_empty() {
        return BTreeSet::new();
    }
    collector.found
}

/// Collects the modules that a file names, tests left out.
struct Collector<'a> {
    module: Module,
    files: &'a BTreeMap<Module, PathBuf>,
    found: BTreeSet<&'a Module>,
}

impl<'a> Collector<'a> {
    fn new(module: Module, files: &'a BTreeMap<Module, PathBuf>) -> Self {
        Self {
            module,
            files,
            found: BTreeSet::new(),
        }
    }

    fn names(&mut self, path: &[String]) {
        let mut rest = path;
        let mut module = match path.first().map(String::as_str) {
            Some("crate") => Module::new(),
            Some("self" | "super") => self.module.clone(),
            _ => return,
        };
        while let Some((first, after)) = rest.split_first() {
            match first.as_str() {
                "crate" | "self" => {}
                "super" => drop(module.pop()),
                _ => break,
            }
            rest = after;
        }
        module.extend_from_slice(rest);
        while !self.files.contains_key(&module) && module.pop().is_some() {}
        if let Some((found, _)) = self.files.get_key_value(&module)
            && *found != self.module
        {
            self.found.insert(found);
        }
    }

    fn tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            UseTree::Name(name) => self.names(&with(&name.ident)),
            UseTree::Rename(renamed) => self.names(&with(&renamed.ident)),
            UseTree::Glob(_) => self.names(before),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(before, item)),
        }
    }
}

impl Visit<'_> for Collector<'_> {
    fn visit_item_mod(&mut self, item: &ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        if !is_test(&item.attrs) {
            self.tree(&[], &item.tree);
        }
    }

    fn visit_path(&mut self, path: &syn::Path) {
        let names: Vec<_> = path
            .segments
            .iter()
            .map(|part| part.ident.to_string())
            .collect();
        if names.len() > 1 {
            self.names(&names);
        }
        visit::visit_path(self, path);
    }

    // `pub(in crate::a)` imports nothing.
    fn visit_visibility(&mut self, _: &syn::Visibility) {}
}

fn is_test(attributes: &[Attribute]) -> bool {
    let test = |attribute: &&Attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|what| what == "test")
    };
    attributes.iter().any(|attribute| test(&attribute))
}

/// Returns the files of each circle: those from which a file is reached that reaches them.
fn circles_in(imports: BTreeMap<&Module, BTreeSet<&Module>>) -> Vec<Vec<String>> {
    let reached = |from: &Module| {
        let mut seen: BTreeSet<&Module> = BTreeSet::new();
        let mut next: Vec<&Module> = imports.get(from).into_iter().flatten().copied().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module) {
                next.extend(imports.get(module).into_iter().flatten());
            }
        }
        seen
    };
    let reach: BTreeMap<&Module, BTreeSet<&Module>> = imports
        .keys()
        .map(|module| (*module, reached(module)))
        .collect();
    let mut circles = BTreeSet::new();
    for (module, from_here) in &reach {
        if from_here.contains(module) {
            let circle = from_here
                .iter()
                .filter(|other| reach.get(*other).is_some_and(|back| back.contains(module)));
            circles.insert(circle.map(|module| module.join("/")).collect::<Vec<_>>());
        }
    }
    circles.into_iter().collect()
}
