//! What a registry may try, and that it does not get through.

mod authentication;
mod bodies;
mod documents;
mod lists;
mod redirects;

use sluice_domain::{Class, Classify as _, Digest, Repository};
use sluice_registry::{Client, CopyJob, Error, ManifestRef, digest_of};

use crate::scripted_registry::ScriptedRegistry;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn repository() -> Repository {
    "a/b".parse().unwrap()
}

fn tag() -> ManifestRef {
    ManifestRef::Tag("1".parse().unwrap())
}

/// Fetches a manifest, which fails.
async fn fetch(client: Client) -> Error {
    let fetched = client.fetch_manifest(&repository(), &tag()).await;
    fetched.unwrap_err()
}

fn image(layer: &Digest, size: usize) -> String {
    let config = digest_of(b"{}");
    format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{config}","size":2}},"layers":[{{"mediaType":"l","digest":"{layer}","size":{size}}}]}}"#
    )
}

#[tokio::test]
async fn a_head_that_a_quota_refuses_costs_no_get() {
    let scripted = ScriptedRegistry::start().await;
    scripted.on(
        "HEAD /v2/a/b/manifests/1",
        429,
        &[("retry-after", "70")],
        "",
    );
    assert!(scripted.client().head(&repository(), &tag()).await.is_err());
    assert!(
        scripted.asked().iter().all(|(method, ..)| method == "HEAD"),
        "a pull was spent"
    );
}

/// Copies `a/b` from one registry to another that takes every upload.
async fn copy(
    source: &ScriptedRegistry,
    target: &ScriptedRegistry,
    digest: &Digest,
) -> Result<u64, Error> {
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
async fn source_with(claimed: &[u8], served: &[u8]) -> (ScriptedRegistry, Digest) {
    let source = ScriptedRegistry::start().await;
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

async fn willing_target(blobs: &[&[u8]], manifest: &Digest) -> ScriptedRegistry {
    let target = ScriptedRegistry::start().await;
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

fn wrote_a_manifest(target: &ScriptedRegistry) -> bool {
    target
        .asked()
        .iter()
        .any(|(method, path, _)| method == "PUT" && path.contains("/manifests/"))
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
async fn a_quota_until_the_end_of_time_is_waited_for_a_day_at_most() {
    let day = chrono::TimeDelta::days(1);
    for (window, after) in [
        ("1;w=18446744073709551615", ""),
        ("100;w=86400", "18446744073709551615"),
    ] {
        let scripted = ScriptedRegistry::start().await;
        let headers = [
            ("ratelimit-limit", window),
            ("ratelimit-remaining", "0;w=18446744073709551615"),
            ("retry-after", after),
        ];
        scripted.on("GET /v2/a/b/manifests/1", 429, &headers, "");
        let error = fetch(scripted.client()).await;
        let Class::Unavailable { until } = error.class() else {
            panic!("{error}");
        };
        assert!(until <= sluice_domain::now() + day, "{until}");
        assert_eq!(scripted.asked().len(), 1, "a quota was asked for again");
    }
}
