//! What the client does without: needless requests, and giving up where another way is open.

use chrono::{TimeDelta, Utc};
use sluice_domain::{Class, Classify as _, Repository};
use sluice_registry::{CopyJob, Error, ManifestRef, digest_of};

use crate::scripted_registry::ScriptedRegistry;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Large enough that siblings are asked for it, as they are not for the configuration.
const LAYER: &[u8] = &[b'x'; 300 << 10];

fn repository() -> Repository {
    "a/b".parse().unwrap()
}

/// A source with one image of one layer, and a target that takes it.
async fn pair() -> (ScriptedRegistry, ScriptedRegistry, sluice_domain::Digest) {
    let (source, target) = (
        ScriptedRegistry::start().await,
        ScriptedRegistry::start().await,
    );
    let (config, layer) = (digest_of(b"{}"), digest_of(LAYER));
    let body = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{config}","size":2}},"layers":[{{"mediaType":"l","digest":"{layer}","size":{}}}]}}"#,
        LAYER.len()
    );
    let digest = digest_of(body.as_bytes());
    let path = format!("/v2/a/b/manifests/{digest}");
    source.on(
        &format!("GET {path}"),
        200,
        &[("content-type", MANIFEST)],
        body,
    );
    source.on(&format!("GET /v2/a/b/blobs/{config}"), 200, &[], "{}");
    source.on(&format!("GET /v2/a/b/blobs/{layer}"), 200, &[], LAYER);
    let location = [("location", "/v2/a/b/blobs/uploads/u?_state=s")];
    target.on("POST /v2/a/b/blobs/uploads/", 202, &location, "");
    for blob in [&config, &layer] {
        let blob = blob.to_string().replace(':', "%3A");
        target.on(
            &format!("PUT /v2/a/b/blobs/uploads/u?_state=s&digest={blob}"),
            201,
            &[],
            "",
        );
    }
    target.on(&format!("PUT {path}"), 201, &[], "");
    (source, target, digest)
}

async fn copy(
    source: &ScriptedRegistry,
    target: &ScriptedRegistry,
    digest: &sluice_domain::Digest,
    siblings: &[Repository],
) -> Result<(u64, u64), Error> {
    let (from, to, repository) = (source.client(), target.client(), repository());
    let job = CopyJob {
        source: &from,
        source_repository: &repository,
        digest,
        target: &to,
        target_repository: &repository,
        siblings,
    };
    job.run()
        .await
        .map(|copied| (copied.blobs_copied, copied.blobs_mounted))
}

fn count(scripted: &ScriptedRegistry, wanted: &str, part: &str) -> usize {
    let asked = scripted.asked();
    asked
        .iter()
        .filter(|(method, path, _)| method == wanted && path.contains(part))
        .count()
}

fn mount(blob: &[u8], from: &str) -> String {
    let (digest, from) = (
        digest_of(blob).to_string().replace(':', "%3A"),
        from.replace('/', "%2F"),
    );
    format!("POST /v2/a/b/blobs/uploads/?mount={digest}&from={from}")
}

#[tokio::test]
async fn a_sibling_that_may_not_be_read_does_not_stop_a_copy() {
    let (source, target, digest) = pair().await;
    let sibling: Repository = "a/secret".parse().unwrap();
    for blob in [LAYER, b"{}"] {
        target.on(
            &format!("HEAD /v2/a/secret/blobs/{}", digest_of(blob)),
            200,
            &[],
            "",
        );
        target.on(&mount(blob, "a/secret"), 403, &[], "");
    }
    assert_eq!(
        copy(&source, &target, &digest, &[sibling]).await.unwrap(),
        (2, 0)
    );
}

#[tokio::test]
async fn a_sibling_without_the_blob_opens_no_upload() {
    let (source, target, digest) = pair().await;
    let siblings: Vec<Repository> = vec!["a/x".parse().unwrap(), "a/y".parse().unwrap()];
    // A mount that does not work is answered with an upload, and that one is used.
    let location = [("location", "/v2/a/b/blobs/uploads/u?_state=s")];
    for blob in [LAYER, b"{}"] {
        target.on(&mount(blob, "a/y"), 202, &location, "");
    }
    assert_eq!(
        copy(&source, &target, &digest, &siblings).await.unwrap(),
        (2, 0)
    );
    assert_eq!(count(&target, "POST", "/uploads/"), 2, "one for each blob");
    assert_eq!(count(&target, "HEAD", "a/x/blobs/"), 1, "the layer");
    assert_eq!(count(&target, "HEAD", "a/y/blobs/"), 0);
    assert_eq!(count(&target, "DELETE", ""), 0);
}

#[tokio::test]
async fn a_blob_of_a_sibling_is_mounted_and_not_fetched() {
    let (source, target, digest) = pair().await;
    let siblings: Vec<Repository> = vec!["a/x".parse().unwrap(), "a/y".parse().unwrap()];
    for blob in [LAYER, b"{}"] {
        target.on(
            &format!("HEAD /v2/a/y/blobs/{}", digest_of(blob)),
            200,
            &[],
            "",
        );
        target.on(&mount(blob, "a/y"), 201, &[], "");
    }
    assert_eq!(
        copy(&source, &target, &digest, &siblings).await.unwrap(),
        (1, 1)
    );
    assert_eq!(count(&source, "GET", "/blobs/"), 1, "the configuration");
}

#[tokio::test]
async fn a_busy_registry_that_names_a_short_wait_is_tried_again_and_a_quota_is_not() {
    for (status, wait, tries) in [(503, "0", 3), (503, "600", 1), (429, "600", 1)] {
        let (source, target, digest) = pair().await;
        let path = format!("/v2/a/b/blobs/{}", digest_of(LAYER));
        source.on(&format!("GET {path}"), status, &[("retry-after", wait)], "");
        assert!(copy(&source, &target, &digest, &[]).await.is_err());
        assert_eq!(count(&source, "GET", &path), tries, "{status} {wait}");
    }
}

#[tokio::test]
async fn a_read_that_fails_is_tried_three_times_and_is_an_outage_then() {
    let scripted = ScriptedRegistry::start().await;
    let full = r#"{"errors":[{"detail":{"Enclosed":{"Op":"write","Path":"/x","Err":28}}}]}"#;
    for (reference, body, told) in [("1", "oops", "oops"), ("2", full, "its disk is full")] {
        let path = format!("/v2/a/b/manifests/{reference}");
        scripted.on(&format!("GET {path}"), 500, &[], body);
        let tag = ManifestRef::Tag(reference.parse().unwrap());
        let error = scripted.client().fetch_manifest(&repository(), &tag).await;
        let error = error.unwrap_err();
        assert!(
            error.class().is_outage() && error.is_unreachable(),
            "{error:?}"
        );
        assert!(error.to_string().contains(told), "{error}");
        assert_eq!(count(&scripted, "GET", &path), 3);
    }
}

#[tokio::test]
async fn a_target_that_cannot_say_whether_it_has_a_blob_gets_it() {
    let (source, target, digest) = pair().await;
    for blob in [LAYER, b"{}"] {
        let path = format!("HEAD /v2/a/b/blobs/{}", digest_of(blob));
        target.on(&path, 500, &[], "");
    }
    assert_eq!(copy(&source, &target, &digest, &[]).await.unwrap(), (2, 0));
}

#[tokio::test]
async fn whatever_is_throttled_at_either_end_is_sent_again_after_the_wait() {
    let date = (Utc::now() + TimeDelta::seconds(3)).to_rfc2822();
    for wait in [Some("1"), Some("0"), Some(date.as_str()), None] {
        let (source, target, digest) = pair().await;
        let headers: Vec<_> = wait.map(|wait| ("retry-after", wait)).into_iter().collect();
        let layer = digest_of(LAYER).to_string();
        let encoded = layer.replace(':', "%3A");
        let refused = [
            (&source, format!("GET /v2/a/b/manifests/{digest}")),
            (&source, format!("GET /v2/a/b/blobs/{layer}")),
            (&target, format!("HEAD /v2/a/b/blobs/{layer}")),
            (&target, "POST /v2/a/b/blobs/uploads/".to_owned()),
            (
                &target,
                format!("PUT /v2/a/b/blobs/uploads/u?_state=s&digest={encoded}"),
            ),
            (&target, format!("PUT /v2/a/b/manifests/{digest}")),
        ];
        for (scripted, request) in &refused {
            scripted.once(request, 429, &headers);
        }
        let copied = copy(&source, &target, &digest, &[]).await;
        assert_eq!(copied.unwrap(), (2, 0), "{wait:?}");
        for (scripted, request) in &refused {
            let (method, path) = request.split_once(' ').unwrap();
            assert!(count(scripted, method, path) >= 2, "{request}");
        }
    }
}

#[tokio::test]
async fn a_registry_that_stays_throttled_is_an_outage_and_no_quota() {
    let scripted = ScriptedRegistry::start().await;
    scripted.on("HEAD /v2/a/b/manifests/1", 429, &[], "");
    let tag = ManifestRef::Tag("1".parse().unwrap());
    let error = scripted
        .client()
        .head(&repository(), &tag)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::TooManyRequests { .. }), "{error:?}");
    assert!(error.class().is_outage(), "{error:?}");
    assert!(error.to_string().contains(&scripted.host), "{error}");
    assert_eq!(scripted.asked().len(), 5);
}

#[tokio::test]
async fn a_throttled_token_issuer_is_waited_for() {
    let scripted = ScriptedRegistry::start().await;
    let challenge = format!("Bearer realm=\"http://{}/token\"", scripted.host);
    let head = "HEAD /v2/a/b/manifests/1";
    let token = "GET /token?scope=repository%3Aa%2Fb%3Apull";
    scripted.once(head, 401, &[("www-authenticate", &challenge)]);
    scripted.once(token, 429, &[("retry-after", "1")]);
    scripted.on(token, 200, &[], r#"{"token":"t"}"#);
    let tag = ManifestRef::Tag("1".parse().unwrap());
    let head = scripted.client().head(&repository(), &tag).await;
    assert_eq!(head.unwrap(), None);
    assert_eq!(count(&scripted, "GET", "/token"), 2);
}

#[tokio::test]
async fn a_used_up_quota_is_waited_for_as_long_as_the_registry_says_and_is_no_attempt() {
    let date = (Utc::now() + TimeDelta::seconds(900)).to_rfc2822();
    let hub = ("ratelimit-limit", "10;w=21600");
    let left = ("ratelimit-remaining", "0;w=21600");
    for (headers, seconds) in [
        (vec![("retry-after", "70")], 70),
        (vec![("retry-after", date.as_str())], 900),
        (vec![("retry-after", "70"), hub, left], 70),
        (vec![hub, left], 2_160),
        (vec![hub, left, ("retry-after", "soon")], 2_160),
        (vec![("ratelimit-limit", "0;w=0"), left], 300),
        (vec![("retry-after", "99999999")], 86_400),
    ] {
        let scripted = ScriptedRegistry::start().await;
        scripted.on("HEAD /v2/a/b/manifests/1", 429, &headers, "");
        let tag = ManifestRef::Tag("1".parse().unwrap());
        let error = scripted
            .client()
            .head(&repository(), &tag)
            .await
            .unwrap_err();
        let Class::Unavailable { until } = error.class() else {
            panic!("{headers:?}: {error:?}");
        };
        let wait = (until - Utc::now()).num_seconds();
        assert!(
            (seconds - 5..=seconds).contains(&wait),
            "{headers:?}: {wait}"
        );
        assert_eq!(scripted.asked().len(), 1);
    }
}

#[tokio::test]
async fn manifests_are_followed_to_another_host_without_the_credential() {
    let (source, other) = (
        ScriptedRegistry::start().await,
        ScriptedRegistry::start().await,
    );
    let (_, _, digest) = pair().await;
    let at = format!("http://{}/elsewhere", other.host);
    source.on("HEAD /v2/a/b/manifests/1", 307, &[("location", &at)], "");
    let named = digest.to_string();
    other.on(
        "HEAD /elsewhere",
        200,
        &[
            ("content-type", MANIFEST),
            ("docker-content-digest", &named),
        ],
        "",
    );
    let tag = ManifestRef::Tag("1".parse().unwrap());
    let head = source
        .client()
        .head(&repository(), &tag)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(head.digest, digest);
    assert!(
        other
            .asked()
            .iter()
            .all(|(_, _, authorization)| authorization.is_none())
    );
}

#[tokio::test]
async fn two_copies_of_one_image_upload_each_blob_once() {
    let (source, target, digest) = pair().await;
    let (one, two) = tokio::join!(
        copy(&source, &target, &digest, &[]),
        copy(&source, &target, &digest, &[])
    );
    assert!(one.is_ok() && two.is_ok());
    // This target never says that it has a blob: the second one knows it from the first.
    let asked = target.asked();
    let layer = digest_of(LAYER).to_string();
    let encoded = layer.replace(':', "%3A");
    let order: Vec<&str> = asked
        .iter()
        .filter_map(|(method, path, _)| match method.as_str() {
            "HEAD" if path.ends_with(&format!("blobs/{layer}")) => Some("look"),
            "PUT" if path.contains(&format!("digest={encoded}")) => Some("upload"),
            _ => None,
        })
        .collect();
    assert_eq!(order, ["look", "upload"]);
}

#[tokio::test]
async fn a_token_is_fetched_once_for_requests_at_the_same_time() {
    let scripted = ScriptedRegistry::start().await;
    let challenge = format!("Bearer realm=\"http://{}/token\"", scripted.host);
    scripted.on(
        "HEAD /v2/a/b/manifests/1",
        401,
        &[("www-authenticate", &challenge)],
        "",
    );
    scripted.on(
        "GET /token?scope=repository%3Aa%2Fb%3Apull",
        200,
        &[],
        r#"{"token":"t"}"#,
    );
    let (client, repository) = (scripted.client(), repository());
    let tag = ManifestRef::Tag("1".parse().unwrap());
    let heads = (0..8).map(|_| client.head(&repository, &tag));
    futures_util::future::join_all(heads).await;
    assert_eq!(count(&scripted, "GET", "/token"), 1);
}

#[tokio::test]
async fn a_foreign_layer_that_lies_nowhere_else_is_copied() {
    let body = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{0}","size":2}},"layers":[{{"mediaType":"x.foreign","digest":"{0}","size":2}},{{"mediaType":"x.foreign","digest":"{0}","size":2,"urls":["http://x"]}}]}}"#,
        digest_of(b"{}")
    );
    let manifest = sluice_registry::Manifest::parse("x", MANIFEST, body.into()).unwrap();
    assert_eq!(manifest.blobs().count(), 2);
}

#[tokio::test]
async fn the_pulls_that_are_left_are_told() {
    let scripted = ScriptedRegistry::start().await;
    let headers = [
        ("ratelimit-limit", "100;w=21600"),
        ("ratelimit-remaining", "9;w=21600"),
        ("retry-after", "600"),
    ];
    scripted.on("HEAD /v2/a/b/manifests/1", 429, &headers, "");
    let client = scripted.client();
    assert_eq!(client.last_rate_limit(), None);
    let tag = ManifestRef::Tag("1".parse().unwrap());
    assert!(client.head(&repository(), &tag).await.is_err());
    assert_eq!(client.last_rate_limit().unwrap().remaining, 9);
}
