//! The inputs of the reference's table that concern layers, each with its verdict, and what makes
//! it dangerous: two programs that read it in two ways.

mod blobs;
mod limits;
mod tars;

use sluice_layer::Rule;

use crate::build::*;
use crate::clients::{Client, Layer, Node, Tree, trivy};
use crate::strict::broken_rule;
use crate::verdicts::{Verdict, check};

const STATUS: &str = "var/lib/dpkg/status";

fn status(package: &str) -> Raw {
    file(
        STATUS,
        format!("Package: {package}\nStatus: install ok installed\n"),
    )
}

/// A tar with one package.
fn package(name: &str) -> Vec<u8> {
    tar(&[
        folder("var/"),
        folder("var/lib/"),
        folder("var/lib/dpkg/"),
        status(name),
    ])
}

fn content<'a>(tree: &'a Tree, path: &str) -> Option<&'a [u8]> {
    match tree.get(path.as_bytes()) {
        Some(Node::File(content, _)) => Some(content),
        _ => None,
    }
}

/// Accepted, with the same files for every client and the scanner.
fn accepted(layers: &[Layer]) -> Tree {
    match check(layers) {
        Verdict::Accepted(tree) => tree,
        Verdict::Refused(error) => panic!("{error}"),
    }
}

/// Refused, while some client and the scanner, or two clients, would have had different files.
fn refused_since_readers_differ(layers: &[Layer], rule: Rule) {
    assert_eq!(broken_rule(layers), Some(rule));
    let trees: Vec<Tree> = Client::ALL
        .iter()
        .filter_map(|client| client.unpack(layers).ok())
        .collect();
    let scanned = trivy(layers).unwrap_or_default();
    let differs = trees.iter().any(|tree| {
        let regular = tree.iter().filter_map(|(path, node)| match node {
            Node::File(content, _) => Some((path, content)),
            _ => None,
        });
        let mut regular = regular.peekable();
        *tree != trees[0]
            || regular.any(|(path, content)| scanned.get(path) != Some(content))
            || scanned.keys().any(|path| !tree.contains_key(path))
    });
    assert!(
        differs || trees.len() < Client::ALL.len(),
        "every reader reads it in one way, so it should be accepted"
    );
}
