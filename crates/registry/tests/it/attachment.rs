//! What nobody scans: attestations within an index, and what is attached to images; both by their bytes.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sluice_domain::{Digest, Repository};
use sluice_registry::{Descriptor, Error, Manifest, digest_of};

use crate::memory_registry::{MANIFEST, Peer};

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const IN_TOTO: &str = "application/vnd.in-toto+json";
const SPDX: &str = "application/spdx+json";
const NOWHERE: &str = r#"{"architecture":"unknown","os":"unknown","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
const STATEMENT: &str = r#"{"_type":"https://in-toto.io/Statement/v0.1","subject":[],"predicateType":"x","predicate":{}}"#;

fn repository() -> Repository {
    "a/b".parse().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = GzEncoder::new(Vec::new(), Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// A statement whose bytes are the header of a file in a tar of the first form, too.
fn statement_and_tar() -> Vec<u8> {
    let mut text = br#"{"_type":"https://in-toto.io/Statement/v1","x":""#.to_vec();
    text.resize(100, b'/');
    text.extend(b"0000644 0000000 0000000 00000000000 00000000000         0");
    text.resize(510, b' ');
    text.extend(b"\"}");
    let sum: u32 = text.iter().map(|byte| u32::from(*byte)).sum();
    text.splice(148..156, format!("{sum:06o}  ").bytes());
    text
}

/// Puts blobs into a registry and returns a manifest over them.
fn manifest(peer: &Peer, config: (&str, &[u8]), layers: &[(&str, Vec<u8>)]) -> Manifest {
    let describe = |kind: &str, blob: &[u8]| {
        let digest = digest_of(blob);
        peer.hold(&repository(), &digest, blob);
        json!({ "mediaType": kind, "digest": digest.as_str(), "size": blob.len() })
    };
    let layers: Vec<Value> = layers
        .iter()
        .map(|(kind, blob)| describe(kind, blob))
        .collect();
    let config = describe(config.0, config.1);
    let document = json!({ "schemaVersion": 2, "config": config, "layers": layers });
    Manifest::parse("x", MANIFEST, document.to_string().into()).unwrap()
}

fn listed(manifest: &Manifest, os: &str) -> Descriptor {
    serde_json::from_value(json!({
        "mediaType": MANIFEST, "digest": manifest.digest.as_str(), "size": manifest.raw.len(),
        "platform": { "os": os, "architecture": if os == "linux" { "amd64" } else { "unknown" } },
        "annotations": { "vnd.docker.reference.type": "attestation-manifest" },
    }))
    .unwrap()
}

async fn is_attestation(peer: &Peer, manifest: &Manifest, os: &str) -> bool {
    let client = peer.client();
    let listed = listed(manifest, os);
    let repository = repository();
    let asked = client.is_attestation(&repository, &listed, manifest);
    asked.await.unwrap()
}

async fn fault(peer: &Peer, manifest: &Manifest) -> Option<String> {
    let client = peer.client();
    let repository = repository();
    let asked = client.attachment_fault(&repository, manifest);
    asked.await.unwrap()
}

#[tokio::test]
async fn only_what_proves_to_be_statements_needs_no_scan() {
    let peer = Peer::start().await;
    let statement = || (IN_TOTO, STATEMENT.as_bytes().to_vec());
    let honest = manifest(
        &peer,
        (CONFIG, NOWHERE.as_bytes()),
        &[statement(), statement()],
    );
    assert!(is_attestation(&peer, &honest, "unknown").await);
    assert!(!is_attestation(&peer, &honest, "linux").await);
    let packed = gzip(STATEMENT.as_bytes());
    for (what, config, layers) in [
        (
            "an image that says so itself",
            r#"{"architecture":"amd64","os":"linux"}"#,
            vec![statement()],
        ),
        (
            "half a platform",
            r#"{"architecture":"unknown"}"#,
            vec![statement()],
        ),
        ("no platform", "{}", vec![statement()]),
        (
            "two platforms",
            r#"{"architecture":"unknown","os":"unknown","OS":"linux"}"#,
            vec![statement()],
        ),
        ("no configuration", "[]", vec![statement()]),
        (
            "a packed layer",
            NOWHERE,
            vec![statement(), (IN_TOTO, packed)],
        ),
        (
            "a skippable frame",
            NOWHERE,
            vec![(
                IN_TOTO,
                [b"\x52\x2a\x4d\x18\x04\0\0\0", STATEMENT.as_bytes()].concat(),
            )],
        ),
        (
            "a tar that is text",
            NOWHERE,
            vec![(IN_TOTO, statement_and_tar())],
        ),
        (
            "something after it",
            NOWHERE,
            vec![(IN_TOTO, [STATEMENT.as_bytes(), b"\0\0"].concat())],
        ),
        ("another document", NOWHERE, vec![(IN_TOTO, b"{}".to_vec())]),
        ("an empty layer", NOWHERE, vec![(IN_TOTO, Vec::new())]),
        (
            "another kind",
            NOWHERE,
            vec![(SPDX, STATEMENT.as_bytes().to_vec())],
        ),
    ] {
        let manifest = manifest(&peer, (CONFIG, config.as_bytes()), &layers);
        assert!(!is_attestation(&peer, &manifest, "unknown").await, "{what}");
    }
}

#[tokio::test]
async fn what_is_attached_is_read_to_its_end_as_what_it_claims() {
    let peer = Peer::start().await;
    let spdx = br#"{"spdxVersion":"SPDX-2.3"}"#;
    let of = |kind: &'static str, bytes: &[u8]| {
        manifest(&peer, (EMPTY, b"{}"), &[(kind, bytes.to_vec())])
    };
    assert_eq!(fault(&peer, &of(SPDX, spdx)).await, None);
    assert_eq!(fault(&peer, &of(IN_TOTO, STATEMENT.as_bytes())).await, None);
    for (kind, bytes, expected) in [
        (SPDX, gzip(spdx), "begins as gzip"),
        (IN_TOTO, statement_and_tar(), "begins as tar"),
        (SPDX, STATEMENT.as_bytes().to_vec(), "no SPDX document"),
        (IN_TOTO, spdx.to_vec(), "no in-toto statement"),
        (
            "text/plain",
            b"x".to_vec(),
            "none that is attached to images",
        ),
    ] {
        let told = fault(&peer, &of(kind, &bytes)).await.unwrap();
        assert!(told.contains(expected), "{told}");
    }
    let image = r#"{"architecture":"amd64","os":"linux"}"#;
    let image = manifest(&peer, (CONFIG, image.as_bytes()), &[(SPDX, spdx.to_vec())]);
    assert!(
        fault(&peer, &image)
            .await
            .unwrap()
            .contains("this is an image")
    );
}

#[tokio::test]
async fn nothing_is_fetched_of_what_is_too_large_and_no_other_bytes_are_taken() {
    let peer = Peer::start().await;
    let digest: Digest = digest_of(b"elsewhere");
    let document = |size: u64| {
        let blob = |kind: &str, size: u64| json!({ "mediaType": kind, "digest": digest.as_str(), "size": size });
        let document = json!({ "schemaVersion": 2, "config": blob(CONFIG, 2), "layers": [blob(IN_TOTO, size)] });
        Manifest::parse("x", MANIFEST, document.to_string().into()).unwrap()
    };
    let huge = document((32 << 20) + 1);
    assert!(!is_attestation(&peer, &huge, "unknown").await);
    assert!(fault(&peer, &huge).await.unwrap().contains("larger"));
    assert_eq!(peer.asked("GET", "/blobs/"), Vec::<String>::new());
    // The registry has other bytes under that digest, of the size that was announced.
    peer.hold(&repository(), &digest, b"{}");
    let lied = document(2);
    let client = peer.client();
    let listed = listed(&lied, "unknown");
    let asked = client.is_attestation(&repository(), &listed, &lied).await;
    assert!(matches!(asked, Err(Error::Untrusted { .. })), "{asked:?}");
    let asked = client.attachment_fault(&repository(), &lied).await;
    assert!(matches!(asked, Err(Error::Untrusted { .. })), "{asked:?}");
}
