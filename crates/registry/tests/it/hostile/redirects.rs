//! Registries that send on to where they should not.

use sluice_domain::{Class, Classify as _};
use sluice_registry::{Manifest, digest_of};

use super::{
    MANIFEST, copy, fetch, image, repository, source_with, tag, willing_target, wrote_a_manifest,
};
use crate::scripted_registry::ScriptedRegistry;

#[tokio::test]
async fn an_upload_that_leads_elsewhere_is_refused() {
    let (source, digest) = source_with(b"right", b"right").await;
    let (target, foreign) = (
        willing_target(&[], &digest).await,
        ScriptedRegistry::start().await,
    );
    let away = format!("http://{}/upload", foreign.host);
    target.on(
        "POST /v2/a/b/blobs/uploads/",
        202,
        &[("location", &away)],
        "",
    );
    let error = copy(&source, &target, &digest).await.unwrap_err();
    assert!(
        error.to_string().contains("leads to another host"),
        "{error}"
    );
    assert!(foreign.asked().is_empty() && !wrote_a_manifest(&target));
}

#[tokio::test]
async fn a_redirected_layer_is_fetched_without_the_credential() {
    let (source, digest) = source_with(b"right", b"right").await;
    let network = ScriptedRegistry::start().await;
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
async fn a_redirect_to_a_metadata_address_is_not_followed() {
    let scripted = ScriptedRegistry::start().await;
    let (source, digest) = source_with(b"right", b"right").await;
    let target = willing_target(&[b"right", b"{}"], &digest).await;
    for place in [
        "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
        "http://0xa9fea9fe/",
        "http://2852039166/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/",
        "http://100.100.100.200/",
        "http://168.63.129.16/",
    ] {
        scripted.on("GET /v2/a/b/manifests/1", 307, &[("location", place)], "");
        let error = fetch(scripted.client()).await;
        assert!(error.to_string().contains("metadata"), "{place}: {error}");
        assert_eq!(error.class(), Class::Permanent);
        // The same with a layer, which is redirected every day.
        let blob = format!("GET /v2/a/b/blobs/{}", digest_of(b"right"));
        source.on(&blob, 302, &[("location", place)], "");
        let error = copy(&source, &target, &digest).await.unwrap_err();
        assert!(error.to_string().contains("metadata"), "{place}: {error}");
        assert!(!wrote_a_manifest(&target));
    }
    assert!(
        scripted
            .asked()
            .iter()
            .all(|(_, path, _)| path == "/v2/a/b/manifests/1")
    );
}

#[tokio::test]
async fn a_redirect_to_what_is_no_address_of_http_is_not_followed() {
    let scripted = ScriptedRegistry::start().await;
    for place in [
        "file:///etc/passwd",
        "ftp://x/",
        "data:,x",
        "http://",
        "http://user:word@127.0.0.1:1/",
    ] {
        scripted.on("GET /v2/a/b/manifests/1", 302, &[("location", place)], "");
        let error = fetch(scripted.client()).await;
        assert!(
            error.to_string().contains("its `Location`"),
            "{place}: {error}"
        );
        assert_eq!(error.class(), Class::Permanent);
    }
}

#[tokio::test]
async fn redirects_in_a_circle_end_after_five() {
    let scripted = ScriptedRegistry::start().await;
    let here = [("location", "/v2/a/b/manifests/1")];
    scripted.on("GET /v2/a/b/manifests/1", 301, &here, "");
    let error = fetch(scripted.client()).await;
    assert!(error.to_string().contains("more than 5 times"), "{error}");
    assert_eq!(scripted.asked().len(), 6);
}

#[tokio::test]
async fn a_redirect_back_home_does_not_take_the_credential_along_to_others() {
    let (scripted, other) = (
        ScriptedRegistry::start().await,
        ScriptedRegistry::start().await,
    );
    let basic = [("www-authenticate", "Basic realm=\"x\"")];
    scripted.on("GET /v2/a/b/manifests/1", 401, &basic, "");
    let client = scripted.client();
    client
        .fetch_manifest(&repository(), &tag())
        .await
        .unwrap_err();
    let (there, back) = (
        format!("http://{}/there", other.host),
        format!("http://{}/back", scripted.host),
    );
    scripted.on("GET /v2/a/b/manifests/1", 307, &[("location", &there)], "");
    other.on("GET /there", 307, &[("location", &back)], "");
    let body = image(&digest_of(b"x"), 1);
    scripted.on("GET /back", 200, &[("content-type", MANIFEST)], body);
    client.fetch_manifest(&repository(), &tag()).await.unwrap();
    assert_eq!(other.asked().len(), 1);
    assert!(other.asked().iter().all(|(_, _, told)| told.is_none()));
}

#[tokio::test]
async fn what_is_written_is_not_redirected() {
    let (scripted, foreign) = (
        ScriptedRegistry::start().await,
        ScriptedRegistry::start().await,
    );
    let body = image(&digest_of(b"x"), 1);
    let manifest = Manifest::parse("x", MANIFEST, body.into()).unwrap();
    let to = format!("http://{}/x", foreign.host);
    let put = scripted.client();
    for status in [301, 307, 308] {
        let away = [("location", to.as_str())];
        scripted.on("PUT /v2/a/b/manifests/1", status, &away, "");
        let error = put
            .put_manifest(&repository(), &tag(), &manifest)
            .await
            .unwrap_err();
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        let (source, digest) = source_with(b"right", b"right").await;
        let target = willing_target(&[], &digest).await;
        for blob in [&b"right"[..], b"{}"] {
            let digest = digest_of(blob).to_string().replace(':', "%3A");
            let upload = format!("PUT /v2/a/b/blobs/uploads/u?_state=s&digest={digest}");
            target.on(&upload, status, &away, "");
        }
        let error = copy(&source, &target, &digest).await.unwrap_err();
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        assert!(!wrote_a_manifest(&target));
    }
    assert!(
        foreign.asked().is_empty(),
        "something was written elsewhere"
    );
}

#[tokio::test]
async fn an_upload_that_leads_to_another_port_or_scheme_is_refused() {
    let (source, digest) = source_with(b"right", b"right").await;
    let target = willing_target(&[], &digest).await;
    let name = target.host.split(':').next().unwrap().to_owned();
    for away in [
        format!("http://{name}:1/upload"),
        format!("https://{}/upload", target.host),
        "//other.invalid/upload".to_owned(),
        "file:///tmp/upload".to_owned(),
        format!("http://user:word@{}/upload", target.host),
    ] {
        let headers = [("location", away.as_str())];
        target.on("POST /v2/a/b/blobs/uploads/", 202, &headers, "");
        let error = copy(&source, &target, &digest).await.unwrap_err();
        assert_eq!(error.class(), Class::Permanent, "{away}: {error}");
    }
    assert!(target.asked().iter().all(|(method, ..)| method != "PUT"));
}
