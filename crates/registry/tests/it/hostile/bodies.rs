//! Bodies that are too short, too long, never end, come a byte at a time, or are packed.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use sluice_domain::{Class, Classify as _, Digest};
use sluice_registry::{Client, CopyJob, Error, ManifestRef, digest_of};
use tokio::time::Instant;

use super::{
    MANIFEST, copy, fetch, image, repository, source_with, tag, willing_target, wrote_a_manifest,
};
use crate::memory_registry::Peer;
use crate::raw::{Piece, Raw, answer, chunk};
use crate::scripted_registry::ScriptedRegistry;

/// A source of one image whose layer is said to be the five bytes `right`, and is served as these pieces.
async fn source(layer: impl Fn(&str) -> Vec<Piece> + Send + Sync + 'static) -> (Raw, Digest) {
    let manifest = image(&digest_of(b"right"), 5);
    let digest = digest_of(manifest.as_bytes());
    let config = digest_of(b"{}").to_string();
    let source = Raw::start(move |head| {
        if head.contains("/manifests/") {
            let headers = [("content-type", MANIFEST)];
            vec![answer("200 OK", &headers, manifest.as_bytes())]
        } else if head.contains(&config) {
            vec![answer("200 OK", &[], b"{}")]
        } else {
            layer(head)
        }
    })
    .await;
    (source, digest)
}

/// Copies it to a registry that stores what comes to its end, and returns the error and whether it has the image.
async fn refused(source: &Client, digest: &Digest) -> (Error, bool) {
    let (target, repository) = (Peer::start().await, repository());
    let to = target.client();
    let job = CopyJob {
        source,
        source_repository: &repository,
        digest,
        target: &to,
        target_repository: &repository,
        siblings: &[],
    };
    let error = job.run().await.unwrap_err();
    let wrote = [digest, &digest_of(b"right")]
        .into_iter()
        .any(|digest| target.holds(&repository, digest));
    (error, wrote)
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn bytes_with_another_digest_are_refused() {
    let scripted = ScriptedRegistry::start().await;
    let body = image(&digest_of(b"x"), 1);
    let wrong = digest_of(b"other").to_string();
    let headers = [
        ("content-type", MANIFEST),
        ("docker-content-digest", wrong.as_str()),
    ];
    scripted.on("GET /v2/a/b/manifests/1", 200, &headers, body.clone());
    assert!(matches!(
        fetch(scripted.client()).await,
        Error::Untrusted { .. }
    ));
    scripted.on(
        &format!("GET /v2/a/b/manifests/{wrong}"),
        200,
        &[("content-type", MANIFEST)],
        body,
    );
    let asked = ManifestRef::Digest(wrong.parse().unwrap());
    let error = scripted
        .client()
        .fetch_manifest(&repository(), &asked)
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Permanent, "{error}");
}

#[tokio::test]
async fn a_manifest_of_64_mib_is_not_read_to_its_end() {
    // With its length it is not even begun, and without one it ends at the limit.
    let length = (64 << 20).to_string();
    for told in [
        &[("content-type", MANIFEST), ("content-length", &length)][..],
        &[("content-type", MANIFEST)],
    ] {
        let told: Vec<(String, String)> = told
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        let scripted = Raw::start(move |_| {
            let told: Vec<(&str, &str)> = told
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            vec![
                answer("200 OK", &told, b""),
                Piece::Forever(vec![b' '; 65_536]),
            ]
        })
        .await;
        let error = fetch(scripted.client()).await;
        assert!(error.to_string().contains("larger than 4194304"), "{error}");
        assert_eq!(error.class(), Class::Permanent);
        assert!(
            scripted.sent() < 16 << 20,
            "{} bytes were taken",
            scripted.sent()
        );
    }
}

#[tokio::test]
async fn a_layer_with_wrong_bytes_is_never_stored() {
    for served in [&b"wrong"[..], b"shor", b"right and more"] {
        let (source, digest) = source_with(b"right", served).await;
        let target = willing_target(&[b"right", b"{}"], &digest).await;
        let error = copy(&source, &target, &digest).await.unwrap_err();
        assert!(!wrote_a_manifest(&target), "{error}");
    }
    // The same copy with the right bytes goes through, so it is the bytes that stopped it.
    let (source, digest) = source_with(b"right", b"right").await;
    let target = willing_target(&[b"right", b"{}"], &digest).await;
    assert_eq!(copy(&source, &target, &digest).await.unwrap(), 2);
    assert!(wrote_a_manifest(&target));
}

#[tokio::test]
async fn a_layer_without_an_end_is_left_at_its_size() {
    let endless = |_: &str| {
        let head = answer("200 OK", &[("transfer-encoding", "chunked")], b"");
        vec![head, Piece::Forever(chunk(&[b'x'; 65_536]))]
    };
    let (source, digest) = source(endless).await;
    let (error, wrote) = refused(&source.client(), &digest).await;
    assert!(error.to_string().contains("instead of 5"), "{error}");
    assert_eq!(error.class(), Class::Permanent);
    assert!(!wrote && source.sent() < 16 << 20, "{}", source.sent());
}

#[tokio::test]
async fn a_layer_of_another_length_than_its_manifest_says_is_not_begun() {
    for length in ["4", "9223372036854775807"] {
        let (source, digest) = source(move |_| {
            vec![
                answer("200 OK", &[("content-length", length)], b"right"),
                Piece::Forever(vec![0; 65_536]),
            ]
        })
        .await;
        let (error, wrote) = refused(&source.client(), &digest).await;
        assert!(
            error.to_string().contains("another size"),
            "{length}: {error}"
        );
        assert!(!wrote && source.sent() < 16 << 20);
    }
}

#[tokio::test]
async fn a_layer_that_ends_too_early_is_never_stored() {
    // Without a length, and with the right one.
    let chunked = |_: &str| {
        let body = [chunk(b"rig"), b"0\r\n\r\n".to_vec()].concat();
        vec![answer("200 OK", &[("transfer-encoding", "chunked")], &body)]
    };
    let cut = |_: &str| vec![answer("200 OK", &[("content-length", "5")], b"rig")];
    for (source, digest) in [source(chunked).await, source(cut).await] {
        let (error, wrote) = refused(&source.client(), &digest).await;
        assert!(!wrote && error.to_string().contains("was cut"), "{error}");
        // It is asked for the rest, and a few times for all of it, but not for ever.
        let asked = source.asked();
        let layers = asked
            .iter()
            .filter(|head| head.contains(digest_of(b"right").as_str()));
        assert!((2..=12).contains(&layers.count()), "{asked:?}");
    }
}

#[tokio::test]
async fn a_rest_that_is_another_part_is_not_taken_for_it() {
    for range in ["bytes 0-4/5", "bytes 3-9/5"] {
        let (source, digest) = source(move |head| {
            if head.contains("range: ") {
                vec![answer("206 Part", &[("content-range", range)], b"wrong")]
            } else {
                vec![answer("200 OK", &[("content-length", "5")], b"rig")]
            }
        })
        .await;
        let (error, wrote) = refused(&source.client(), &digest).await;
        assert!(
            !wrote && error.to_string().contains("another part"),
            "{range}: {error}"
        );
    }
}

#[tokio::test]
async fn a_refusal_without_an_end_is_a_refusal() {
    let scripted = Raw::start(|_| {
        vec![
            answer("403 No", &[], b"go away"),
            Piece::Forever(vec![b'!'; 65_536]),
        ]
    })
    .await;
    let error = fetch(scripted.client()).await;
    assert!(error.to_string().contains("403"), "{error}");
    assert!(error.to_string().len() < 1_000 && scripted.sent() < 16 << 20);
}

#[tokio::test]
async fn headers_without_an_end_are_not_read_to_it() {
    for endless in ["x-a: ", "x-a: b\r\n"] {
        let scripted = Raw::start(move |_| {
            let head = Piece::Bytes(b"HTTP/1.1 200 OK\r\n".to_vec());
            let line = format!(
                "{endless}{}",
                if endless.ends_with('\n') { "" } else { "x" }
            );
            vec![head, Piece::Forever(line.repeat(4_096).into_bytes())]
        })
        .await;
        let error = scripted
            .client()
            .head(&repository(), &tag())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Transport { .. }), "{error:?}");
        assert!(format!("{error:?}").contains("Parse"), "{error:?}");
        assert!(
            scripted.sent() < 32 << 20,
            "{} bytes were taken",
            scripted.sent()
        );
    }
}

#[tokio::test]
async fn a_registry_that_falls_silent_is_left_after_a_minute() {
    for pieces in [
        vec![Piece::Silence],
        vec![
            Piece::Bytes(b"HTTP/1.1 200 OK\r\nx: ".to_vec()),
            Piece::Drip,
        ],
        vec![Piece::Bytes(b"HTTP/1.1 200".to_vec()), Piece::Silence],
        vec![
            answer("200 OK", &[("content-type", MANIFEST)], b"{"),
            Piece::Silence,
        ],
    ] {
        let scripted = Raw::start(move |_| pieces.clone()).await;
        let client = scripted.client();
        let call = tokio::spawn(async move { client.fetch_manifest(&repository(), &tag()).await });
        scripted.let_time_fly().await;
        let began = Instant::now();
        let error = call.await.unwrap().unwrap_err();
        let took = began.elapsed();
        tokio::time::resume();
        assert!(took <= Duration::from_secs(61), "{took:?}");
        assert!(error.class().is_outage(), "{error:?}");
    }
}

#[tokio::test]
async fn a_manifest_that_comes_a_byte_at_a_time_is_left_after_three_minutes() {
    let scripted = Raw::start(|_| {
        vec![
            answer("200 OK", &[("content-type", MANIFEST)], b"{"),
            Piece::Drip,
        ]
    })
    .await;
    let client = scripted.client();
    let call = tokio::spawn(async move { client.fetch_manifest(&repository(), &tag()).await });
    scripted.let_time_fly().await;
    let began = Instant::now();
    let error = call.await.unwrap().unwrap_err();
    let took = began.elapsed();
    assert!(error.to_string().contains("is stalled"), "{error}");
    assert!(
        took > Duration::from_secs(60) && took <= Duration::from_secs(181),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_layer_that_comes_a_byte_at_a_time_is_left_after_three_minutes() {
    let manifest = image(&digest_of(b"never"), 1 << 30);
    let digest = digest_of(manifest.as_bytes());
    let source = Raw::start(move |head| {
        if head.contains("/manifests/") {
            let headers = [("content-type", MANIFEST)];
            return vec![answer("200 OK", &headers, manifest.as_bytes())];
        }
        if head.contains(digest_of(b"{}").as_str()) {
            return vec![answer("200 OK", &[], b"{}")];
        }
        let length = [("content-length", "1073741824")];
        vec![answer("200 OK", &length, b"ne"), Piece::Drip]
    })
    .await;
    let client = source.client();
    let call = tokio::spawn(async move { refused(&client, &digest).await });
    source.let_time_fly().await;
    let began = Instant::now();
    let (error, wrote) = call.await.unwrap();
    let took = began.elapsed();
    assert!(
        !wrote && error.to_string().contains("is stalled"),
        "{error}"
    );
    assert!(took <= Duration::from_secs(181), "{took:?}");
}

#[tokio::test]
async fn nothing_packed_is_asked_for_and_a_packed_answer_is_not_unpacked() {
    // Unpacked it would be larger than any manifest may be.
    let bomb = packed(&vec![b' '; 5 << 20]);
    let body = bomb.clone();
    let scripted = Raw::start(move |head| {
        let encoding = head.split(['/', ' ']).nth(6).unwrap();
        let headers = [("content-type", MANIFEST), ("content-encoding", encoding)];
        vec![answer("200 OK", &headers, &body)]
    })
    .await;
    let client = scripted.client();
    for encoding in ["gzip", "x-gzip", "deflate", "br", "zstd"] {
        let tag = ManifestRef::Tag(encoding.parse().unwrap());
        let error = client
            .fetch_manifest(&repository(), &tag)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("compressed"),
            "{encoding}: {error}"
        );
    }
    let asked = scripted.asked();
    assert!(asked.len() == 5 && asked.iter().all(|head| !head.contains("accept-encoding")));
    // One that does not say that it is packed is as little a manifest.
    let scripted = ScriptedRegistry::start().await;
    scripted.on(
        "GET /v2/a/b/manifests/1",
        200,
        &[("content-type", MANIFEST)],
        bomb,
    );
    assert!(
        fetch(scripted.client())
            .await
            .to_string()
            .contains("no manifest")
    );
}

#[tokio::test]
async fn a_packed_layer_is_passed_on_as_it_is() {
    let layer = packed(&vec![0; 1 << 20]);
    // A layer that is said to be packed once more is the bytes that came, and those are what its digest is of.
    for (claimed, is_right) in [(layer.clone(), true), (vec![0; layer.len()], false)] {
        let (source, digest) = source_with(&claimed, &layer).await;
        source.on(
            &format!("GET /v2/a/b/blobs/{}", digest_of(&claimed)),
            200,
            &[("content-encoding", "gzip")],
            layer.clone(),
        );
        let target = willing_target(&[&claimed, b"{}"], &digest).await;
        assert_eq!(copy(&source, &target, &digest).await.is_ok(), is_right);
        assert_eq!(wrote_a_manifest(&target), is_right);
    }
}
