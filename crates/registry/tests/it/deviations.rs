//! Registries that deviate from the specification in ways that real ones do.

use sluice_domain::{Digest, Repository};
use sluice_registry::{CopyJob, Error, ManifestRef, digest_of};

use crate::scripted_registry::ScriptedRegistry;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const KIND: (&str, &str) = ("content-type", MANIFEST);

fn repository() -> Repository {
    "a/b".parse().unwrap()
}

fn tag() -> ManifestRef {
    ManifestRef::Tag("1".parse().unwrap())
}

fn body() -> String {
    let config = digest_of(b"{}");
    format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{config}","size":2}},"layers":[]}}"#
    )
}

fn count(scripted: &ScriptedRegistry, method: &str, part: &str) -> usize {
    let asked = scripted.asked();
    let of_kind =
        |(by, path, _): &&(String, String, Option<String>)| by == method && path.contains(part);
    asked.iter().filter(of_kind).count()
}

/// A source of one image, and a target that takes it.
async fn pair(manifest: &str, blobs: &[&[u8]]) -> (ScriptedRegistry, ScriptedRegistry, Digest) {
    let (source, target) = (
        ScriptedRegistry::start().await,
        ScriptedRegistry::start().await,
    );
    let digest = digest_of(manifest.as_bytes());
    let path = format!("/v2/a/b/manifests/{digest}");
    source.on(&format!("GET {path}"), 200, &[KIND], manifest);
    target.on(&format!("PUT {path}"), 201, &[], "");
    let location = [("location", "/v2/a/b/blobs/uploads/u?_state=s")];
    target.on("POST /v2/a/b/blobs/uploads/", 202, &location, "");
    for blob in blobs {
        let digest = digest_of(blob).to_string();
        source.on(&format!("GET /v2/a/b/blobs/{digest}"), 200, &[], *blob);
        let encoded = digest.replace(':', "%3A");
        let put = format!("PUT /v2/a/b/blobs/uploads/u?_state=s&digest={encoded}");
        target.on(&put, 201, &[], "");
    }
    (source, target, digest)
}

async fn copy(
    source: &ScriptedRegistry,
    target: &ScriptedRegistry,
    digest: &Digest,
) -> Result<u64, Error> {
    let (from, to, repository) = (source.client(), target.client(), repository());
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

#[tokio::test]
async fn a_head_without_a_digest_is_made_up_for_by_a_get_and_only_for_a_tag() {
    let scripted = ScriptedRegistry::start().await;
    let digest = digest_of(body().as_bytes());
    for reference in ["1", digest.as_str()] {
        let path = format!("/v2/a/b/manifests/{reference}");
        scripted.on(&format!("HEAD {path}"), 200, &[KIND], "");
        scripted.on(&format!("GET {path}"), 200, &[KIND], body());
    }
    for (reference, gets) in [(tag(), 1), ((&digest).into(), 0)] {
        let head = scripted.client().head(&repository(), &reference).await;
        assert_eq!(head.unwrap().unwrap().digest, digest);
        assert_eq!(count(&scripted, "GET", &reference.to_string()), gets);
    }
}

#[tokio::test]
async fn where_head_is_refused_a_manifest_is_fetched() {
    for status in [400, 405, 501] {
        let scripted = ScriptedRegistry::start().await;
        let path = "/v2/a/b/manifests/1";
        scripted.on(&format!("HEAD {path}"), status, &[], "");
        let client = scripted.client();
        let missing = client.head(&repository(), &tag()).await;
        assert_eq!(missing.unwrap(), None, "{status}");
        scripted.on(&format!("GET {path}"), 200, &[KIND], body());
        let head = client.head(&repository(), &tag()).await.unwrap().unwrap();
        assert_eq!(head.digest, digest_of(body().as_bytes()), "{status}");
        assert_eq!(head.media_type, MANIFEST, "{status}");
    }
}

#[tokio::test]
async fn a_source_that_knows_nothing_by_head_is_asked_with_get_until_it_answered_one() {
    let scripted = ScriptedRegistry::start().await;
    let path = "/v2/a/b/manifests/1";
    scripted.on(&format!("GET {path}"), 200, &[KIND], body());
    let (client, digest) = (scripted.client(), digest_of(body().as_bytes()));
    let found = client.resolve(&repository(), &tag()).await.unwrap();
    assert_eq!(found.unwrap().digest, digest);
    // Once a HEAD was answered, 404 means that the tag is not there.
    let named = digest.to_string();
    let headers = [KIND, ("docker-content-digest", named.as_str())];
    scripted.on("HEAD /v2/a/b/manifests/2", 200, &headers, "");
    let other = ManifestRef::Tag("2".parse().unwrap());
    assert!(
        client
            .resolve(&repository(), &other)
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(client.resolve(&repository(), &tag()).await.unwrap(), None);
    assert_eq!(count(&scripted, "GET", path), 1);
}

#[tokio::test]
async fn a_list_that_refuses_long_pages_is_asked_for_without_their_length() {
    for status in [400, 405, 416, 422] {
        let scripted = ScriptedRegistry::start().await;
        let list = "/v2/a/b/tags/list";
        scripted.on(&format!("GET {list}?n=1000"), status, &[], "");
        let next = [("link", "</v2/a/b/tags/list?last=1&n=100>; rel=\"next\"")];
        scripted.on(&format!("GET {list}"), 200, &next, r#"{"tags":["1"]}"#);
        // Which page comes next, the registry says itself.
        for page in ["?last=1&n=100", "?last=1"] {
            scripted.on(&format!("GET {list}{page}"), 200, &[], r#"{"tags":["2"]}"#);
        }
        scripted.on("GET /v2/_catalog?n=1000", status, &[], "");
        scripted.on("GET /v2/_catalog", 200, &[], r#"{"repositories":["a/b"]}"#);
        let client = scripted.client();
        for _ in 0..2 {
            let tags = client.list_tags(&repository()).await.unwrap();
            assert_eq!(tags.len(), 2, "{status}");
        }
        let repositories = client.list_repositories(|_| true).await.unwrap();
        assert_eq!(repositories, [repository()]);
        // It is found out once.
        assert_eq!(count(&scripted, "GET", "n=1000"), 1, "{status}");
    }
    let scripted = ScriptedRegistry::start().await;
    for status in [401, 403, 404] {
        scripted.on("GET /v2/a/b/tags/list?n=1000", status, &[], "");
        assert!(scripted.client().list_tags(&repository()).await.is_err());
    }
    assert_eq!(
        count(&scripted, "GET", "/tags/list"),
        count(&scripted, "GET", "n=1000")
    );
}

#[tokio::test]
async fn a_tag_goes_by_an_empty_index_where_only_digests_can_be_deleted() {
    for status in [400, 405, 501] {
        let peer = crate::deleting::Deleting::start(status, 404).await;
        let client = peer.client();
        let nobody = |_: Digest| async { Ok::<(), ()>(()) };
        let tag = "1".parse().unwrap();
        let deleted = client.delete_tag(&repository(), &tag, nobody).await;
        deleted.unwrap().unwrap();
        assert!(peer.wrote() && peer.deleted(), "{status}");
    }
}

#[tokio::test]
async fn a_registry_that_deletes_nothing_keeps_its_tag_as_it_is() {
    for refusal in [401, 403, 405] {
        let peer = crate::deleting::Deleting::start(405, refusal).await;
        let client = peer.client();
        let nobody = |_: Digest| async { Ok::<(), ()>(()) };
        let tag = "1".parse().unwrap();
        let refused = client.delete_tag(&repository(), &tag, nobody).await;
        assert!(refused.is_err(), "{refusal}");
        assert!(!peer.wrote(), "the tag points to nothing now: {refusal}");
    }
}

#[tokio::test]
async fn a_blob_that_is_sent_on_for_is_there_and_one_that_cannot_be_looked_up_is_copied() {
    for (status, copied) in [
        (301, 0),
        (302, 0),
        (303, 0),
        (307, 0),
        (308, 0),
        (405, 1),
        (501, 1),
    ] {
        let (source, target, digest) = pair(&body(), &[b"{}"]).await;
        let path = format!("HEAD /v2/a/b/blobs/{}", digest_of(b"{}"));
        let elsewhere = [("location", "https://content.example/x")];
        target.on(&path, status, &elsewhere, "");
        let done = copy(&source, &target, &digest).await;
        assert_eq!(done.unwrap(), copied, "{status}");
    }
}

#[tokio::test]
async fn whatever_success_a_write_is_answered_with_it_is_one() {
    for status in [200, 201, 202, 204] {
        let (source, target, digest) = pair(&body(), &[b"{}"]).await;
        let encoded = digest_of(b"{}").to_string().replace(':', "%3A");
        for put in [
            format!("PUT /v2/a/b/manifests/{digest}"),
            format!("PUT /v2/a/b/blobs/uploads/u?_state=s&digest={encoded}"),
        ] {
            target.on(&put, status, &[], "");
        }
        let done = copy(&source, &target, &digest).await;
        assert_eq!(done.unwrap(), 1, "{status}");
    }
}

#[tokio::test]
async fn an_empty_layer_and_an_image_without_layers_are_copied() {
    let (config, empty) = (digest_of(b"{}"), digest_of(b""));
    let head =
        format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{config}","size":2}}"#);
    let layer = format!(r#"{{"mediaType":"l","digest":"{empty}","size":0}}"#);
    for (rest, copied) in [
        (format!(r#","layers":[{layer}]}}"#), 2),
        ("}".to_owned(), 1),
        (r#","layers":null}"#.to_owned(), 1),
    ] {
        let (source, target, digest) = pair(&format!("{head}{rest}"), &[b"{}", b""]).await;
        let done = copy(&source, &target, &digest).await;
        assert_eq!(done.unwrap(), copied, "{rest}");
    }
}
