//! Manifests and indexes of any registry: the first byte says as what the rest is served.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_registry::{Content, Manifest, digest_of};

const TYPES: [&str; 5] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

fuzz_target!(|data: &[u8]| {
    let Some((first, body)) = data.split_first() else {
        return;
    };
    let which = usize::from(*first) % TYPES.len();
    let Ok(manifest) = Manifest::parse("x", TYPES[which], body.to_vec().into()) else {
        return;
    };
    // Kept byte for byte, and one kind of document only.
    assert_eq!(manifest.raw, body);
    assert_eq!(manifest.digest, digest_of(body));
    assert_eq!(manifest.media_type, TYPES[which]);
    assert!(which < 4, "schema 1 was accepted");
    let is_index = matches!(manifest.content, Content::Index { .. });
    assert_eq!(is_index, which % 2 == 1);
    assert!(manifest.children().is_empty() || manifest.blobs().next().is_none());
    assert!(manifest.children().len() <= 512 && manifest.blobs().count() <= 512);
    for child in manifest.children() {
        let _ = child
            .platform
            .as_ref()
            .and_then(|platform| platform.platform());
        assert!(
            !manifest.has_attestation_types(child),
            "an index is no attestation"
        );
    }
    for blob in manifest.blobs() {
        assert!(!blob.is_foreign());
    }
});
