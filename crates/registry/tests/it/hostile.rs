//! What a registry may try, and that it does not get through.

use sluice_domain::{Class, Classify as _, Digest, Repository};
use sluice_registry::{Client, CopyJob, Error, ManifestRef, digest_of};

use crate::liar::Liar;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn repository() -> Repository {
    "a/b".parse().unwrap()
}

fn tag() -> ManifestRef {
    ManifestRef::Tag("1".parse().unwrap())
}

async fn fetch(liar: &Liar) -> Error {
    liar.client()
        .manifest(&repository(), &tag())
        .await
        .unwrap_err()
}

fn image(layer: &Digest, size: usize) -> String {
    let config = digest_of(b"{}");
    format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{config}","size":2}},"layers":[{{"mediaType":"l","digest":"{layer}","size":{size}}}]}}"#
    )
}

#[tokio::test]
async fn a_foreign_realm_gets_no_credential() {
    let (liar, foreign) = (Liar::start().await, Liar::start().await);
    let challenge = format!(
        "Bearer realm=\"http://{}/token\",service=\"x\"",
        foreign.host
    );
    liar.on(
        "GET /v2/a/b/manifests/1",
        401,
        &[("www-authenticate", &challenge)],
        "",
    );
    let error = fetch(&liar).await;
    assert!(matches!(error, Error::Untrusted { .. }), "{error}");
    assert!(foreign.asked().is_empty(), "the foreign host was asked");
    assert!(
        liar.asked()
            .iter()
            .all(|(_, _, authorization)| authorization.is_none())
    );
}

#[tokio::test]
async fn an_own_realm_gets_the_credential_and_its_token_is_used_again() {
    let liar = Liar::start().await;
    let challenge = format!("Bearer realm=\"http://{}/token\",service=\"x\"", liar.host);
    liar.on(
        "HEAD /v2/a/b/manifests/1",
        401,
        &[("www-authenticate", &challenge)],
        "",
    );
    liar.on(
        "GET /token?scope=repository%3Aa%2Fb%3Apull&service=x",
        200,
        &[],
        r#"{"token":"t","expires_in":300}"#,
    );
    let client = liar.client();
    for _ in 0..2 {
        assert!(client.head(&repository(), &tag()).await.is_err());
    }
    let asked = liar.asked();
    let sent: Vec<_> = asked
        .iter()
        .filter_map(|(_, path, authorization)| Some((path.as_str(), authorization.as_deref()?)))
        .collect();
    assert!(
        sent.iter()
            .any(|(path, value)| path.starts_with("/token") && value.starts_with("Basic "))
    );
    assert!(
        sent.iter()
            .any(|(path, value)| path.ends_with("manifests/1") && *value == "Bearer t")
    );
    assert!(
        !sent
            .iter()
            .any(|(path, value)| !path.starts_with("/token") && value.starts_with("Basic "))
    );
}

#[tokio::test]
async fn a_token_that_no_header_may_hold_is_refused() {
    let liar = Liar::start().await;
    let challenge = format!("Bearer realm=\"http://{}/token\"", liar.host);
    liar.on(
        "GET /v2/a/b/manifests/1",
        401,
        &[("www-authenticate", &challenge)],
        "",
    );
    liar.on(
        "GET /token?scope=repository%3Aa%2Fb%3Apull",
        200,
        &[],
        r#"{"token":"a\r\nx: y"}"#,
    );
    let error = fetch(&liar).await;
    assert!(matches!(error, Error::Untrusted { .. }), "{error}");
}

#[tokio::test]
async fn bytes_with_another_digest_are_refused() {
    let liar = Liar::start().await;
    let body = image(&digest_of(b"x"), 1);
    let wrong = digest_of(b"other").to_string();
    let headers = [
        ("content-type", MANIFEST),
        ("docker-content-digest", wrong.as_str()),
    ];
    liar.on("GET /v2/a/b/manifests/1", 200, &headers, body.clone());
    assert!(matches!(fetch(&liar).await, Error::Untrusted { .. }));
    liar.on(
        &format!("GET /v2/a/b/manifests/{wrong}"),
        200,
        &[("content-type", MANIFEST)],
        body,
    );
    let asked = ManifestRef::Digest(wrong.parse().unwrap());
    let error = liar
        .client()
        .manifest(&repository(), &asked)
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Permanent, "{error}");
}

#[tokio::test]
async fn a_huge_manifest_is_not_read_to_its_end() {
    let liar = Liar::start().await;
    liar.on(
        "GET /v2/a/b/manifests/1",
        200,
        &[("content-type", MANIFEST)],
        vec![b' '; 64 << 20],
    );
    assert!(fetch(&liar).await.to_string().contains("larger than"));
}

#[tokio::test]
async fn a_head_without_a_digest_costs_no_get() {
    let liar = Liar::start().await;
    liar.on(
        "HEAD /v2/a/b/manifests/1",
        200,
        &[("content-type", MANIFEST)],
        "",
    );
    assert!(liar.client().head(&repository(), &tag()).await.is_err());
    liar.on("HEAD /v2/a/b/manifests/1", 429, &[("retry-after", "7")], "");
    assert!(liar.client().head(&repository(), &tag()).await.is_err());
    assert!(
        liar.asked().iter().all(|(method, ..)| method == "HEAD"),
        "a pull was spent"
    );
}

#[tokio::test]
async fn a_tag_list_is_followed_on_its_own_host_only() {
    let (liar, foreign) = (Liar::start().await, Liar::start().await);
    let next = [("link", "</v2/a/b/tags/list?n=1000&last=1>; rel=\"next\"")];
    liar.on(
        "GET /v2/a/b/tags/list?n=1000",
        200,
        &next,
        r#"{"tags":["1","../x","ok"]}"#,
    );
    liar.on(
        "GET /v2/a/b/tags/list?n=1000&last=1",
        200,
        &[],
        r#"{"tags":null}"#,
    );
    let tags = liar.client().tags(&repository()).await.unwrap();
    assert_eq!(
        tags.iter().map(AsRef::as_ref).collect::<Vec<&str>>(),
        ["1", "ok"]
    );
    let away = format!("<http://{}/v2/a/b/tags/list>; rel=\"next\"", foreign.host);
    liar.on(
        "GET /v2/a/b/tags/list?n=1000",
        200,
        &[("link", &away)],
        r#"{"tags":["1"]}"#,
    );
    assert!(liar.client().tags(&repository()).await.is_err());
    assert!(foreign.asked().is_empty());
}

#[tokio::test]
async fn a_tag_list_without_an_end_is_given_up() {
    let liar = Liar::start().await;
    let next = [("link", "</v2/a/b/tags/list?n=1000>; rel=\"next\"")];
    liar.on(
        "GET /v2/a/b/tags/list?n=1000",
        200,
        &next,
        r#"{"tags":["1"]}"#,
    );
    assert!(
        liar.client()
            .tags(&repository())
            .await
            .unwrap_err()
            .to_string()
            .contains("1000 pages")
    );
}

/// Copies `a/b` from one registry to another that takes every upload.
async fn copy(source: &Liar, target: &Liar, digest: &Digest) -> Result<u64, Error> {
    let (from, to): (Client, Client) = (source.client(), target.client());
    let repository = repository();
    let job = CopyJob {
        source: &from,
        source_repository: &repository,
        digest,
        target: &to,
        target_repository: &repository,
        siblings: &[],
    };
    job.run().await.map(|copied| copied.blobs_copied)
}

/// Serves an image whose layer is said to be `claimed` and is `served`.
async fn source_with(claimed: &[u8], served: &[u8]) -> (Liar, Digest) {
    let source = Liar::start().await;
    let body = image(&digest_of(claimed), claimed.len());
    let digest = digest_of(body.as_bytes());
    source.on(
        &format!("GET /v2/a/b/manifests/{digest}"),
        200,
        &[("content-type", MANIFEST)],
        body,
    );
    source.on(
        &format!("GET /v2/a/b/blobs/{}", digest_of(claimed)),
        200,
        &[],
        served,
    );
    source.on(
        &format!("GET /v2/a/b/blobs/{}", digest_of(b"{}")),
        200,
        &[],
        "{}",
    );
    (source, digest)
}

async fn willing_target(blobs: &[&[u8]], manifest: &Digest) -> Liar {
    let target = Liar::start().await;
    target.on(
        "POST /v2/a/b/blobs/uploads/",
        202,
        &[("location", "/v2/a/b/blobs/uploads/u?_state=s")],
        "",
    );
    for blob in blobs {
        let digest = digest_of(blob).to_string().replace(':', "%3A");
        target.on(
            &format!("PUT /v2/a/b/blobs/uploads/u?_state=s&digest={digest}"),
            201,
            &[],
            "",
        );
    }
    target.on(&format!("PUT /v2/a/b/manifests/{manifest}"), 201, &[], "");
    target
}

fn wrote_a_manifest(target: &Liar) -> bool {
    target
        .asked()
        .iter()
        .any(|(method, path, _)| method == "PUT" && path.contains("/manifests/"))
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
async fn blobs_that_the_target_has_are_not_fetched() {
    let (source, digest) = source_with(b"right", b"right").await;
    let target = willing_target(&[], &digest).await;
    for blob in [&b"right"[..], b"{}"] {
        target.on(
            &format!("HEAD /v2/a/b/blobs/{}", digest_of(blob)),
            200,
            &[],
            "",
        );
    }
    assert_eq!(copy(&source, &target, &digest).await.unwrap(), 0);
    assert!(
        !source
            .asked()
            .iter()
            .any(|(_, path, _)| path.contains("/blobs/")),
        "a blob was fetched"
    );
}

#[tokio::test]
async fn an_upload_that_leads_elsewhere_is_refused() {
    let (source, digest) = source_with(b"right", b"right").await;
    let (target, foreign) = (willing_target(&[], &digest).await, Liar::start().await);
    let away = format!("http://{}/upload", foreign.host);
    target.on(
        "POST /v2/a/b/blobs/uploads/",
        202,
        &[("location", &away)],
        "",
    );
    assert!(copy(&source, &target, &digest).await.is_err());
    assert!(foreign.asked().is_empty());
}

#[tokio::test]
async fn a_redirected_layer_is_fetched_without_the_credential() {
    let (source, digest) = source_with(b"right", b"right").await;
    let network = Liar::start().await;
    let blob = format!("/v2/a/b/blobs/{}", digest_of(b"right"));
    source.on(
        &format!("GET {blob}"),
        401,
        &[("www-authenticate", "Basic realm=\"x\"")],
        "",
    );
    let target = willing_target(&[b"right", b"{}"], &digest).await;
    assert!(
        copy(&source, &target, &digest).await.is_err(),
        "basic authentication is answered twice with 401"
    );
    let at = format!("http://{}/content", network.host);
    source.on(&format!("GET {blob}"), 307, &[("location", &at)], "");
    network.on("GET /content", 200, &[], "right");
    assert_eq!(copy(&source, &target, &digest).await.unwrap(), 2);
    assert!(
        network
            .asked()
            .iter()
            .all(|(_, _, authorization)| authorization.is_none())
    );
}

#[tokio::test]
async fn a_child_that_is_not_what_its_index_says_is_refused() {
    let source = Liar::start().await;
    let body = image(&digest_of(b"right"), 5);
    let child = digest_of(body.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{MANIFEST}","digest":"{child}","size":{}}}]}}"#,
        body.len() + 1
    );
    let digest = digest_of(index.as_bytes());
    source.on(
        &format!("GET /v2/a/b/manifests/{digest}"),
        200,
        &[("content-type", INDEX)],
        index,
    );
    source.on(
        &format!("GET /v2/a/b/manifests/{child}"),
        200,
        &[("content-type", MANIFEST)],
        body,
    );
    let target = willing_target(&[], &digest).await;
    let error = copy(&source, &target, &digest).await.unwrap_err();
    assert!(error.to_string().contains("size or media type"), "{error}");
    assert!(!wrote_a_manifest(&target));
}
