//! Whether a registry mounts a blob from the repository itself is found out once, and spares looks from then on.

use crate::engine::{bytes, copy, name, pair};
use crate::memory_registry::Manner;

/// Returns eleven layers.
fn many_layers() -> Vec<Vec<u8>> {
    (0..11).map(|n| bytes(n, 1_000)).collect()
}

#[tokio::test]
async fn a_registry_that_mounts_nothing_from_a_repository_itself_is_asked_for_each_blob() {
    let (source, target) = pair().await;
    target.behave(Manner {
        mounts_nothing: true,
        ..Manner::default()
    });
    let digest = source.push(&name("up/app"), &many_layers());
    let client = target.client();
    let copied = copy(&source, &client, &digest, "hub/app").await;
    assert_eq!(copied.unwrap().blobs_copied, 12);
    assert_eq!(target.asked("POST", "mount=").len(), 1, "it was found out");
    assert_eq!(target.uploads(), 0, "and what was opened for it given up");
    let other = source.push(&name("up/app"), &[bytes(20, 1_000)]);
    copy(&source, &client, &other, "hub/app").await.unwrap();
    assert_eq!(target.asked("HEAD", "/blobs/").len(), 14);
}

#[tokio::test]
async fn mounts_from_other_repositories_go_on_where_those_from_a_repository_itself_work() {
    let (source, target) = pair().await;
    let digest = source.push(&name("up/app"), &many_layers());
    let client = target.client();
    copy(&source, &client, &digest, "hub/app").await.unwrap();
    let copied = copy(&source, &client, &digest, "hub/other").await.unwrap();
    assert_eq!((copied.blobs_mounted, copied.blobs_copied), (12, 0));
    let looks = target.asked("HEAD", "/blobs/").len();
    let other = source.push(&name("up/app"), &[bytes(20, 1_000)]);
    copy(&source, &client, &other, "hub/app").await.unwrap();
    assert_eq!(
        target.asked("HEAD", "/blobs/").len(),
        looks,
        "no more looks"
    );
    assert!(target.holds(&name("hub/app"), &other));
}
