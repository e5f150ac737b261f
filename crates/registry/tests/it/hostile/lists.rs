//! Lists that lead elsewhere, in a circle, or never end, and the names on them.

use sluice_domain::{Class, Classify as _};

use super::repository;
use crate::scripted_registry::ScriptedRegistry;

const FIRST: &str = "GET /v2/a/b/tags/list?n=1000";

#[tokio::test]
async fn a_link_to_a_foreign_host_is_not_followed() {
    let (scripted, foreign) = (
        ScriptedRegistry::start().await,
        ScriptedRegistry::start().await,
    );
    let next = [("link", "</v2/a/b/tags/list?n=1000&last=1>; rel=\"next\"")];
    scripted.on(
        "GET /v2/a/b/tags/list?n=1000",
        200,
        &next,
        r#"{"tags":["1","ok"]}"#,
    );
    scripted.on(
        "GET /v2/a/b/tags/list?n=1000&last=1",
        200,
        &[],
        r#"{"tags":null}"#,
    );
    let tags = scripted.client().list_tags(&repository()).await.unwrap();
    assert_eq!(
        tags.iter().map(AsRef::as_ref).collect::<Vec<&str>>(),
        ["1", "ok"]
    );
    let away = format!("<http://{}/v2/a/b/tags/list>; rel=\"next\"", foreign.host);
    scripted.on(
        "GET /v2/a/b/tags/list?n=1000",
        200,
        &[("link", &away)],
        r#"{"tags":["1"]}"#,
    );
    let error = scripted
        .client()
        .list_tags(&repository())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("another host"), "{error}");
    assert_eq!(error.class(), Class::Permanent);
    assert!(foreign.asked().is_empty());
}

#[tokio::test]
async fn a_list_that_leads_back_to_itself_is_left_at_once() {
    let scripted = ScriptedRegistry::start().await;
    let next = [("link", "</v2/a/b/tags/list?n=1000>; rel=\"next\"")];
    scripted.on(FIRST, 200, &next, r#"{"tags":["1"]}"#);
    let error = scripted
        .client()
        .list_tags(&repository())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("back to one of its pages"),
        "{error}"
    );
    assert_eq!(scripted.asked().len(), 1);
}

#[tokio::test]
async fn a_list_with_ever_another_page_is_given_up() {
    let scripted = ScriptedRegistry::start().await;
    for page in 0..=1_001_i32 {
        let next = format!("</v2/a/b/tags/list?last={page}>; rel=\"next\"");
        let before = format!("GET /v2/a/b/tags/list?last={}", page - 1);
        let asked = if page == 0 { FIRST } else { &before };
        scripted.on(asked, 200, &[("link", &next)], r#"{"tags":["1"]}"#);
    }
    let error = scripted
        .client()
        .list_tags(&repository())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("1000 pages"), "{error}");
    assert_eq!(error.class(), Class::Permanent);
    assert_eq!(scripted.asked().len(), 1_000);
}

#[tokio::test]
async fn a_huge_page_is_not_read() {
    let scripted = ScriptedRegistry::start().await;
    scripted.on(FIRST, 200, &[], vec![b' '; (8 << 20) + 1]);
    let error = scripted
        .client()
        .list_tags(&repository())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
}

#[tokio::test]
async fn names_with_tricks_never_come_out_of_a_list() {
    let scripted = ScriptedRegistry::start().await;
    let tricks =
        r#"["ok","../x","a/b","a?b","a%2f","a\u0000b","a\nb","","-x",".x","\u001b[31m","a b"]"#;
    let long = format!("{},\"{}\"]", tricks.trim_end_matches(']'), "x".repeat(129));
    scripted.on(FIRST, 200, &[], format!(r#"{{"tags":{long}}}"#));
    let tags = scripted.client().list_tags(&repository()).await.unwrap();
    assert_eq!(
        tags.iter().map(AsRef::as_ref).collect::<Vec<&str>>(),
        ["ok"]
    );
    let names = r#"["ok/x","../x","a//b","/a","a/","A/b","a/../b","a/./b","_catalog","a%2fb","a b","a\u0000"]"#;
    let long = format!("{},\"{}\"]", names.trim_end_matches(']'), "x".repeat(256));
    let body = format!(r#"{{"repositories":{long}}}"#);
    scripted.on("GET /v2/_catalog?n=1000", 200, &[], body);
    let found = scripted.client().list_repositories(|_| true).await.unwrap();
    assert_eq!(
        found.iter().map(AsRef::as_ref).collect::<Vec<&str>>(),
        ["ok/x"]
    );
}
