//! What a registry says refers to a manifest, and how it may lie about that.

use sluice_domain::{Class, Classify as _, Digest, Repository};
use sluice_registry::{Error, digest_of};

use crate::scripted_registry::ScriptedRegistry;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn repository() -> Repository {
    "a/b".parse().unwrap()
}

fn subject() -> Digest {
    digest_of(b"the subject")
}

fn path() -> String {
    format!("/v2/a/b/referrers/{}", subject())
}

fn list(digests: impl IntoIterator<Item = Digest>) -> String {
    let entry = |digest| format!(r#"{{"mediaType":"{MANIFEST}","digest":"{digest}","size":2}}"#);
    let entries: Vec<String> = digests.into_iter().map(entry).collect();
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#,
        entries.join(",")
    )
}

/// Returns so many digests.
fn digests(from: usize, count: usize) -> Vec<Digest> {
    (from..from + count)
        .map(|n| digest_of(n.to_string().as_bytes()))
        .collect()
}

async fn listed(scripted: &ScriptedRegistry) -> Result<Option<Vec<Digest>>, Error> {
    let found = scripted
        .client()
        .list_referrers(&repository(), &subject())
        .await?;
    Ok(found.map(|found| found.into_iter().map(|found| found.digest).collect()))
}

#[tokio::test]
async fn every_page_of_a_list_is_read() {
    let scripted = ScriptedRegistry::start().await;
    let (first, second) = (digests(0, 2), digests(2, 1));
    let next = format!("<{}?page=2>; rel=\"next\"", path());
    scripted.on(
        &format!("GET {}", path()),
        200,
        &[("content-type", INDEX), ("link", &next)],
        list(first.clone()),
    );
    scripted.on(
        &format!("GET {}?page=2", path()),
        200,
        &[("content-type", &format!("{INDEX}; charset=utf-8"))],
        list(second.clone()),
    );
    let all = [first, second].concat();
    assert_eq!(listed(&scripted).await.unwrap(), Some(all));
}

#[tokio::test]
async fn a_registry_that_does_not_know_the_address_has_no_list() {
    for status in [404, 400, 403, 405, 501, 303] {
        let scripted = ScriptedRegistry::start().await;
        let elsewhere = [("location", "https://example.com/")];
        scripted.on(&format!("GET {}", path()), status, &elsewhere, "");
        assert_eq!(listed(&scripted).await.unwrap(), None, "{status}");
        assert_eq!(scripted.asked().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn what_is_no_list_is_not_taken_for_an_empty_one() {
    let foreign = ScriptedRegistry::start().await;
    let away = format!("<http://{}/v2/a/b/x>; rel=\"next\"", foreign.host);
    let again = format!("<{}>; rel=\"next\"", path());
    let empty = list([]);
    let children = r#"{"schemaVersion":2,"manifests":"#;
    let image = r#"{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}"#.to_owned();
    for (media_type, link, body) in [
        ("text/html", "", "<html></html>".to_owned()),
        ("application/json", "", empty.clone()),
        (MANIFEST, "", image.clone()),
        (INDEX, "", image),
        (INDEX, "", children.to_owned()),
        (INDEX, "", "x".repeat((4 << 20) + 1)),
        (INDEX, "", list(digests(0, 513))),
        (INDEX, away.as_str(), empty.clone()),
        // It has no end.
        (INDEX, again.as_str(), empty),
    ] {
        let scripted = ScriptedRegistry::start().await;
        let mut headers = vec![("content-type", media_type)];
        if !link.is_empty() {
            headers.push(("link", link));
        }
        let told: String = body.chars().take(40).collect();
        scripted.on(&format!("GET {}", path()), 200, &headers, body);
        let error = listed(&scripted).await.unwrap_err();
        assert!(matches!(error, Error::Untrusted { .. }), "{told}: {error}");
        assert!(matches!(error.class(), Class::Permanent), "{told}");
        assert!(scripted.asked().len() <= 16, "{told}");
    }
    assert!(foreign.asked().is_empty());
}

#[tokio::test]
async fn only_so_many_referrers_are_looked_at() {
    let scripted = ScriptedRegistry::start().await;
    let headers = [("content-type", INDEX)];
    scripted.on(
        &format!("GET {}", path()),
        200,
        &headers,
        list(digests(0, 500)),
    );
    assert_eq!(listed(&scripted).await.unwrap().unwrap().len(), 256);
}

#[tokio::test]
async fn a_registry_that_is_away_or_wants_pauses_has_not_said_that_it_has_no_list() {
    for status in [429, 503] {
        let scripted = ScriptedRegistry::start().await;
        let wait = [("retry-after", "100")];
        scripted.on(&format!("GET {}", path()), status, &wait, "");
        let error = listed(&scripted).await.unwrap_err();
        assert!(!matches!(error.class(), Class::Permanent), "{error}");
    }
}
