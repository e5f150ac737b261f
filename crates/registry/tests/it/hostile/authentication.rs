//! Registries and issuers that are after the credential, or that say what must not be repeated.

use sluice_domain::{Class, Classify as _};

use super::{fetch, repository, tag};
use crate::raw::{Piece, Raw, answer};
use crate::scripted_registry::ScriptedRegistry;

const TOKEN: &str = "GET /token?scope=repository%3Aa%2Fb%3Apull";

/// A registry that asks for a token, which is to be had at its own address.
async fn asking() -> ScriptedRegistry {
    let scripted = ScriptedRegistry::start().await;
    let challenge = format!("Bearer realm=\"http://{}/token\"", scripted.host);
    let headers = [("www-authenticate", challenge.as_str())];
    scripted.on("GET /v2/a/b/manifests/1", 401, &headers, "");
    scripted
}

#[tokio::test]
async fn a_foreign_realm_gets_no_credential() {
    let (scripted, foreign) = (
        ScriptedRegistry::start().await,
        ScriptedRegistry::start().await,
    );
    let challenge = format!(
        "Bearer realm=\"http://{}/token\",service=\"x\"",
        foreign.host
    );
    scripted.on(
        "GET /v2/a/b/manifests/1",
        401,
        &[("www-authenticate", &challenge)],
        "",
    );
    let error = fetch(scripted.client()).await;
    assert!(
        error
            .to_string()
            .contains("is not the registry; if it is the right one, name it"),
        "{error}"
    );
    assert!(foreign.asked().is_empty(), "the foreign host was asked");
    assert!(
        scripted
            .asked()
            .iter()
            .all(|(_, _, authorization)| authorization.is_none())
    );
}

#[tokio::test]
async fn an_own_realm_gets_the_credential_and_its_token_is_used_again() {
    let scripted = ScriptedRegistry::start().await;
    let challenge = format!(
        "Bearer realm=\"http://{}/token\",service=\"x\"",
        scripted.host
    );
    scripted.on(
        "HEAD /v2/a/b/manifests/1",
        401,
        &[("www-authenticate", &challenge)],
        "",
    );
    scripted.on(
        "GET /token?scope=repository%3Aa%2Fb%3Apull&service=x",
        200,
        &[],
        r#"{"token":"t","expires_in":300}"#,
    );
    let client = scripted.client();
    for _ in 0..2 {
        assert!(client.head(&repository(), &tag()).await.is_err());
    }
    let asked = scripted.asked();
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
async fn a_realm_that_is_no_address_of_a_host_gets_nothing() {
    let scripted = ScriptedRegistry::start().await;
    for realm in [
        "",
        "token",
        "file:///etc/passwd",
        "data:,x",
        "http://",
        "//x/token",
    ] {
        let challenge = format!("Bearer realm=\"{realm}\"");
        let headers = [("www-authenticate", challenge.as_str())];
        scripted.on("GET /v2/a/b/manifests/1", 401, &headers, "");
        let error = fetch(scripted.client()).await;
        assert!(error.to_string().contains("realm"), "{realm}: {error}");
        assert_eq!(error.class(), Class::Permanent);
        assert!(scripted.asked().iter().all(|(_, _, told)| told.is_none()));
    }
}

#[tokio::test]
async fn a_request_for_a_token_is_not_redirected() {
    let (scripted, foreign) = (asking().await, ScriptedRegistry::start().await);
    for status in [301, 302, 303, 307, 308] {
        let to = format!("http://{}/token", foreign.host);
        scripted.on(TOKEN, status, &[("location", &to)], "");
        let error = fetch(scripted.client()).await;
        assert!(
            error.to_string().contains(&format!("answered {status}")),
            "{error}"
        );
    }
    assert!(foreign.asked().is_empty(), "the credential went elsewhere");
    let told = scripted.asked();
    assert!(
        told.iter()
            .any(|(_, path, told)| path.starts_with("/token") && told.is_some())
    );
}

#[tokio::test]
async fn a_token_with_control_characters_becomes_no_header() {
    let scripted = asking().await;
    for token in [
        r"a\r\nx: y",
        r"a\u0000",
        r"a\u001b[31m",
        r"a\u007f",
        "\u{e9}",
    ] {
        scripted.on(TOKEN, 200, &[], format!(r#"{{"token":"{token}"}}"#));
        let error = fetch(scripted.client()).await;
        assert!(
            error
                .to_string()
                .contains("characters that a header may not"),
            "{token}: {error}"
        );
        let bearers = scripted.asked().into_iter().filter(|(_, _, told)| {
            told.as_deref()
                .is_some_and(|told| told.starts_with("Bearer"))
        });
        assert_eq!(bearers.count(), 0, "{token}");
    }
}

#[tokio::test]
async fn a_token_answer_that_is_none_is_refused_without_being_quoted() {
    let scripted = asking().await;
    for body in [
        "",
        "null",
        "[]",
        r#"{"token":""}"#,
        r#"{"token":7}"#,
        r#"{"token":"hidden-token","expires_in":"soon"}"#,
        r#"{"token":"hidden-token","token":"b"}"#,
        r#"{"token":"hidden-token""#,
    ] {
        scripted.on(TOKEN, 200, &[], body);
        let error = fetch(scripted.client()).await;
        assert!(
            error.to_string().contains("response of its token issuer"),
            "{body}: {error}"
        );
        assert!(!format!("{error:?}").contains("hidden-token"), "{error:?}");
    }
}

#[tokio::test]
async fn a_token_answer_without_an_end_is_not_read_to_it() {
    let scripted = Raw::start(|head| {
        if !head.starts_with("GET /token") {
            let host = head
                .split("host: ")
                .nth(1)
                .unwrap()
                .split("\r\n")
                .next()
                .unwrap();
            let challenge = format!("Bearer realm=\"http://{host}/token\"");
            return vec![answer("401 No", &[("www-authenticate", &challenge)], b"")];
        }
        vec![
            answer("200 OK", &[], b"{"),
            Piece::Forever(vec![b' '; 65_536]),
        ]
    })
    .await;
    let error = fetch(scripted.client()).await;
    assert!(error.to_string().contains("larger than 1048576"), "{error}");
    assert!(scripted.sent() < 16 << 20, "{}", scripted.sent());
}

#[tokio::test]
async fn what_a_registry_says_steers_no_terminal_and_repeats_no_secret() {
    let scripted = ScriptedRegistry::start().await;
    let basic = [("www-authenticate", "Basic realm=\"x\"")];
    scripted.on("GET /v2/a/b/manifests/1", 401, &basic, "");
    let client = scripted.client();
    client
        .fetch_manifest(&repository(), &tag())
        .await
        .unwrap_err();
    scripted.on(
        "GET /v2/a/b/manifests/1",
        403,
        &[],
        "\u{1b}]0;title\u{7}\u{1b}[2J\u{202e}planted-secret dXNlcjpwbGFudGVkLXNlY3JldA==",
    );
    let error = client
        .fetch_manifest(&repository(), &tag())
        .await
        .unwrap_err();
    let told = format!("{error} {error:?}");
    assert!(told.contains("403") && told.contains("[secret]"), "{told}");
    assert!(
        told.chars()
            .all(|sign| sign.is_ascii() && !sign.is_ascii_control()),
        "{told}"
    );
    assert!(
        !told.contains("planted-secret") && !told.contains("dXNlcj"),
        "{told}"
    );
}

#[tokio::test]
async fn a_token_is_used_for_its_own_scope_only() {
    let scripted = ScriptedRegistry::start().await;
    let challenge = format!("Bearer realm=\"http://{}/token\"", scripted.host);
    let headers = [("www-authenticate", challenge.as_str())];
    for name in ["one", "two"] {
        scripted.on(&format!("GET /v2/{name}/manifests/1"), 401, &headers, "");
        scripted.on(
            &format!("GET /token?scope=repository%3A{name}%3Apull"),
            200,
            &[],
            format!(r#"{{"token":"for-{name}","expires_in":3600}}"#),
        );
    }
    let client = scripted.client();
    for name in ["one", "two", "one"] {
        let repository = name.parse().unwrap();
        client
            .fetch_manifest(&repository, &tag())
            .await
            .unwrap_err();
    }
    for (_, path, told) in scripted.asked() {
        if let Some(token) = told
            .as_deref()
            .and_then(|told| told.strip_prefix("Bearer for-"))
        {
            assert!(
                path.starts_with(&format!("/v2/{token}/")),
                "{path} with {token}"
            );
        }
    }
    let bearers = scripted.asked().into_iter().filter(|(_, _, told)| {
        told.as_deref()
            .is_some_and(|told| told.starts_with("Bearer"))
    });
    assert!(bearers.count() >= 3);
}
