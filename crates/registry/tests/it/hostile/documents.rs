//! Manifests and indexes that lie about themselves, about what is below them, or that never come to an end.

use sluice_domain::{Class, Classify as _, Digest};
use sluice_registry::{Destination, Error, Estimator, IntegrityCheck, digest_of};

use super::{INDEX, MANIFEST, copy, image, repository, willing_target};
use crate::scripted_registry::ScriptedRegistry;

const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// Serves a document by its digest.
fn serve(scripted: &ScriptedRegistry, media_type: &str, body: &str) -> Digest {
    let digest = digest_of(body.as_bytes());
    serve_as(scripted, &digest, media_type, body);
    digest
}

/// Serves a document as if it had this digest.
fn serve_as(scripted: &ScriptedRegistry, digest: &Digest, media_type: &str, body: &str) {
    let path = format!("GET /v2/a/b/manifests/{digest}");
    let headers = [("content-type", media_type)];
    let said: &[(&'static str, &str)] = if media_type.is_empty() { &[] } else { &headers };
    scripted.on(&path, 200, said, body);
}

fn descriptor(media_type: &str, digest: &Digest, size: impl std::fmt::Display) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

fn index(children: &[String]) -> String {
    format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        children.join(",")
    )
}

async fn pair() -> (ScriptedRegistry, ScriptedRegistry) {
    (
        ScriptedRegistry::start().await,
        ScriptedRegistry::start().await,
    )
}

/// Copies what cannot be copied: nothing is begun at the target, and it is final.
async fn refused(
    (source, target): (&ScriptedRegistry, &ScriptedRegistry),
    digest: &Digest,
) -> String {
    let error = copy(source, target, digest).await.unwrap_err();
    let asked = target.asked();
    let wrote = asked
        .iter()
        .find(|(method, ..)| method != "GET" && method != "HEAD");
    assert_eq!(wrote, None, "{error}");
    assert_eq!(error.class(), Class::Permanent, "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_document_that_can_be_read_in_two_ways_is_refused() {
    let (source, target) = pair().await;
    let right = descriptor("l", &digest_of(b"right"), 5);
    let other = descriptor("l", &digest_of(b"other"), 5);
    let config = descriptor("c", &digest_of(b"{}"), 2);
    for (media_type, body, reason) in [
        (
            INDEX,
            format!(r#"{{"schemaVersion":2,"manifests":[],"config":{config},"layers":[]}}"#),
            "neither",
        ),
        (
            INDEX,
            format!(r#"{{"schemaVersion":2,"manifests":[],"layers":[{right}]}}"#),
            "neither",
        ),
        (
            MANIFEST,
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{right}],"manifests":[]}}"#),
            "neither",
        ),
        (MANIFEST, index(&[]), "neither"),
        (INDEX, image(&digest_of(b"right"), 5), "neither"),
        (
            MANIFEST,
            format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","config":{config},"layers":[]}}"#),
            "differs",
        ),
        (
            MANIFEST,
            format!(
                r#"{{"schemaVersion":2,"config":{config},"layers":[{right}],"layers":[{other}]}}"#
            ),
            "duplicate",
        ),
        (
            MANIFEST,
            format!(
                r#"{{"schemaVersion":2,"config":{config},"layers":[{right}],"Layers":[{other}]}}"#
            ),
            "two ways",
        ),
        (
            MANIFEST,
            format!(
                r#"{{"schemaVersion":2,"config":{config},"layers":[{right}],"layer\u017f":[{other}]}}"#
            ),
            "two ways",
        ),
        (
            MANIFEST,
            format!(
                r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#,
                right.replace('}', r#","Digest":"sha256:0"}"#)
            ),
            "two ways",
        ),
        (
            MANIFEST,
            format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}} {{}}"#),
            "no manifest",
        ),
    ] {
        let digest = serve(&source, media_type, &body);
        let told = refused((&source, &target), &digest).await;
        assert!(told.contains(reason), "{body}: {told}");
    }
}

#[tokio::test]
async fn schema_1_and_other_types_of_documents_are_refused() {
    let (source, target) = pair().await;
    let old = r#"{"schemaVersion":1,"name":"a/b","tag":"1","fsLayers":[{"blobSum":"sha256:0"}],"history":[],"signatures":[]}"#;
    let body = image(&digest_of(b"right"), 5);
    for (media_type, body, reason) in [
        (SCHEMA_1, old, "is not supported"),
        (
            "application/vnd.docker.distribution.manifest.v1+json",
            old,
            "is not supported",
        ),
        (MANIFEST, old, "schema version 2"),
        ("application/json", &body, "is not supported"),
        ("text/html", &body, "is not supported"),
        (
            "application/vnd.oci.artifact.manifest.v1+json",
            &body,
            "is not supported",
        ),
        ("", &body, "is not supported"),
        (MANIFEST, "<html>", "no manifest"),
        (MANIFEST, "", "no manifest"),
    ] {
        let digest = serve(&source, media_type, body);
        let told = refused((&source, &target), &digest).await;
        assert!(told.contains(reason), "{media_type}: {told}");
    }
}

#[tokio::test]
async fn a_child_with_another_digest_size_or_media_type_is_refused() {
    let (source, target) = pair().await;
    let body = image(&digest_of(b"right"), 5);
    let (child, size) = (digest_of(body.as_bytes()), body.len());
    let other = digest_of(b"other");
    for (listed, reason) in [
        (descriptor(MANIFEST, &child, size + 1), "size or media type"),
        (descriptor(MANIFEST, &child, 0), "size or media type"),
        (descriptor(MANIFEST, &child, u64::MAX), "size or media type"),
        (descriptor(INDEX, &child, size), "size or media type"),
        (descriptor("text/plain", &child, size), "size or media type"),
        (
            descriptor(MANIFEST, &other, size),
            "the digest that was asked for",
        ),
        (descriptor(MANIFEST, &child, -1), "no manifest"),
        (
            descriptor(MANIFEST, &child, "18446744073709551616"),
            "no manifest",
        ),
        (
            descriptor(MANIFEST, &child, size).replace("sha256", "sha512"),
            "no manifest",
        ),
        (
            descriptor(MANIFEST, &child, size).replace("sha256:", "sha256:../../"),
            "no manifest",
        ),
    ] {
        serve(&source, MANIFEST, &body);
        serve_as(&source, &other, MANIFEST, &body);
        let digest = serve(&source, INDEX, &index(std::slice::from_ref(&listed)));
        let told = refused((&source, &target), &digest).await;
        assert!(told.contains(reason), "{listed}: {told}");
    }
}

#[tokio::test]
async fn an_index_that_lists_itself_is_refused() {
    let (source, target) = pair().await;
    // No honest bytes can do that, so it is their digest that gives them away.
    let (one, two) = (digest_of(b"one"), digest_of(b"two"));
    for (digest, child) in [(&one, &two), (&two, &one)] {
        let body = index(&[descriptor(INDEX, child, 300)]);
        serve_as(&source, digest, INDEX, &body);
    }
    let told = refused((&source, &target), &one).await;
    assert!(told.contains("digest that was asked for"), "{told}");
    assert_eq!(source.asked().len(), 1);
}

#[tokio::test]
async fn an_index_that_is_too_deep_is_refused() {
    let (source, target) = pair().await;
    let mut body = image(&digest_of(b"right"), 5);
    let mut digest = serve(&source, MANIFEST, &body);
    for depth in 0..5 {
        let kind = if depth == 0 { MANIFEST } else { INDEX };
        let child = descriptor(kind, &digest, body.len());
        body = index(&[child]);
        digest = serve(&source, INDEX, &body);
    }
    let told = refused((&source, &target), &digest).await;
    assert!(told.contains("nested deeper than 3"), "{told}");
    assert!(source.asked().len() <= 5);
    // Whoever plans or audits it goes no further.
    let (from, repository) = (source.client(), repository());
    let destination = Destination {
        registry: None,
        repository: &repository,
    };
    let planned = Estimator::default()
        .estimate_copy((&from, &repository), &digest, destination)
        .await;
    assert!(planned.unwrap_err().to_string().contains("nested"));
}

/// An index of so many children that are nowhere.
fn crowd(count: usize, seed: usize) -> String {
    let children: Vec<String> = (0..count)
        .map(|number| descriptor(MANIFEST, &digest_of(&(seed + number).to_be_bytes()), 2))
        .collect();
    index(&children)
}

#[tokio::test]
async fn an_index_with_too_many_children_is_refused() {
    let (source, target) = pair().await;
    let digest = serve(&source, INDEX, &crowd(513, 0));
    assert!(
        refused((&source, &target), &digest)
            .await
            .contains("512 references")
    );
    // Neither are there more of them in several indexes.
    let children: Vec<String> = [0, 1_000, 2_000]
        .into_iter()
        .map(|seed| {
            let body = crowd(500, seed);
            descriptor(INDEX, &serve(&source, INDEX, &body), body.len())
        })
        .collect();
    let digest = serve(&source, INDEX, &index(&children));
    assert!(
        refused((&source, &target), &digest)
            .await
            .contains("1024 manifests")
    );
    assert!(source.asked().len() <= 5, "children were fetched");
}

#[tokio::test]
async fn an_audit_of_what_nobody_could_have_copied_comes_to_an_end() {
    let scripted = ScriptedRegistry::start().await;
    let children: Vec<String> = [0, 1_000, 2_000]
        .into_iter()
        .map(|seed| {
            let body = crowd(500, seed);
            descriptor(INDEX, &serve(&scripted, INDEX, &body), body.len())
        })
        .collect();
    let digest = serve(&scripted, INDEX, &index(&children));
    let named = digest.to_string();
    let headers = [("docker-content-digest", named.as_str())];
    scripted.on("HEAD /v2/a/b/manifests/1", 200, &headers, "");
    let (client, tag) = (scripted.client(), "1".parse().unwrap());
    let error = IntegrityCheck::new(&client)
        .first_missing(&repository(), &tag, &digest)
        .await;
    assert!(error.unwrap_err().to_string().contains("1024 manifests"));
    assert!(scripted.asked().len() <= 6, "children were fetched");
}

#[tokio::test]
async fn sizes_that_do_not_fit_together_are_refused() {
    let source = ScriptedRegistry::start().await;
    let layer = |name: &[u8], size: u64| descriptor("l", &digest_of(name), size);
    let config = descriptor("c", &digest_of(b"{}"), u64::MAX);
    let huge = [
        layer(b"one", u64::MAX),
        layer(b"two", u64::MAX),
        layer(b"three", 1),
    ];
    let body = format!(
        r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#,
        huge.join(",")
    );
    let digest = serve(&source, MANIFEST, &body);
    for blob in [&b"one"[..], b"two", b"three", b"{}"] {
        source.on(
            &format!("GET /v2/a/b/blobs/{}", digest_of(blob)),
            200,
            &[],
            blob,
        );
    }
    let target = willing_target(&[], &digest).await;
    let error = copy(&source, &target, &digest).await.unwrap_err();
    assert!(error.to_string().contains("another size"), "{error}");
    assert!(target.asked().iter().all(|(method, ..)| method != "PUT"));
    // The sum of what it would cost has an end as well.
    let (from, repository) = (source.client(), repository());
    let destination = Destination {
        registry: None,
        repository: &repository,
    };
    let cost = Estimator::default()
        .estimate_copy((&from, &repository), &digest, destination)
        .await;
    assert_eq!(cost.unwrap().bytes, u64::MAX);
    // One blob with two sizes is none.
    let two = [layer(b"one", 3), layer(b"one", 4)].join(",");
    let config = descriptor("c", &digest_of(b"{}"), 2);
    let body = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{two}]}}"#);
    let digest = serve(&source, MANIFEST, &body);
    let target = ScriptedRegistry::start().await;
    assert!(
        refused((&source, &target), &digest)
            .await
            .contains("different sizes")
    );
}

#[tokio::test]
async fn the_addresses_in_a_descriptor_are_never_asked() {
    let (source, foreign) = (
        ScriptedRegistry::start().await,
        ScriptedRegistry::start().await,
    );
    let urls = format!(r#","urls":["http://{}/layer"]}}"#, foreign.host);
    let with_urls = |media_type: &str, name: &[u8]| {
        descriptor(media_type, &digest_of(name), name.len()).replace('}', &urls)
    };
    let foreign_type = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let config = descriptor("c", &digest_of(b"{}"), 2);
    for blob in [&b"right"[..], b"{}"] {
        source.on(
            &format!("GET /v2/a/b/blobs/{}", digest_of(blob)),
            200,
            &[],
            blob,
        );
    }
    foreign.on("GET /layer", 200, &[], "away");
    // A foreign layer is left out; one that is not called so and is not there is an error, wherever it is said to be.
    for (kind, is_copied) in [
        (foreign_type, true),
        ("application/vnd.oci.image.layer.v1.tar", false),
    ] {
        let layers = [
            descriptor("l", &digest_of(b"right"), 5),
            with_urls(kind, b"away"),
        ]
        .join(",");
        let body = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]}}"#);
        let digest = serve(&source, MANIFEST, &body);
        let target = willing_target(&[b"right", b"{}", b"away"], &digest).await;
        match copy(&source, &target, &digest).await {
            Ok(blobs) => assert!(is_copied && blobs == 2),
            Err(error) => assert!(
                !is_copied && matches!(error, Error::NotFound { .. }),
                "{error}"
            ),
        }
    }
    assert!(foreign.asked().is_empty(), "the address was asked");
}
