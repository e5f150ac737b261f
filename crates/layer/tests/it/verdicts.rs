//! What must hold for every image that the strict reader accepts.

use sluice_layer::{EntryForm, Error, PackageManager};

use crate::clients::{Client, Layer, Node, Tree, open, trivy_of_tars};
use crate::strict::read_image;

/// How an image was read.
pub(crate) enum Verdict {
    /// Accepted; the tree is the one that every client unpacks.
    Accepted(Tree),
    Refused(Error),
}

/// Reads an image, and checks what acceptance promises.
///
/// # Panics
///
/// If a client unpacks something else than the scanner is given, or than another client.
pub(crate) fn check(layers: &[Layer]) -> Verdict {
    let (contents, tars) = match read_image(layers) {
        Ok(read) => read,
        Err(error) => {
            let reason = error.to_string();
            assert!(!reason.contains(char::is_control), "{reason:?}");
            return Verdict::Refused(error);
        }
    };
    let scanned = trivy_of_tars(&tars).expect("the scanner reads what was accepted");
    let [first, others @ ..] = Client::ALL;
    let tree = unpack(first, layers).expect("overlayfs takes folders over files");
    for other in others {
        if let Some(unpacked) = unpack(other, layers) {
            assert_eq!(unpacked, tree, "{other:?} differs from {first:?}");
        }
    }
    for (path, node) in &tree {
        if let Node::File(content, false) = node {
            assert_eq!(
                scanned.get(path),
                Some(content),
                "`{}` is not what the scanner sees",
                path.escape_ascii()
            );
        }
    }
    // A database that the scanner does not see as the client does is told to be a link.
    let database = b"var/lib/dpkg/status";
    if let Some((_, content)) = open(&tree, database) {
        let found: Vec<_> = contents
            .databases
            .iter()
            .filter(|found| found.database.manager == PackageManager::Dpkg)
            .collect();
        assert!(!found.is_empty(), "a database was not noticed");
        if scanned.get(&database[..]) != Some(&content) {
            assert!(
                found
                    .iter()
                    .any(|found| found.database.form != EntryForm::File),
                "a database that the scanner cannot see was taken for a file"
            );
        }
    }
    Verdict::Accepted(tree)
}

/// Unpacks, or gives nothing where a file of a lower layer is in the way: a client that lays layers
/// into one folder then ends with an error, and so runs nothing.
fn unpack(client: Client, layers: &[Layer]) -> Option<Tree> {
    match client.unpack(layers) {
        Ok(tree) => Some(tree),
        Err(error) if error == "not a directory" => {
            assert!(matches!(
                client,
                Client::ContainerdNative | Client::PodmanVfs
            ));
            None
        }
        Err(error) => panic!("{client:?} does not unpack what was accepted: {error}"),
    }
}
