//! Where accounts are read, and to whom they are shown.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sluice_domain::RegistryHost;
use sluice_registry::{
    Access, AccessReport, Authentication, Client, CredentialSource, Endpoint, Error, ManifestRef,
    Permission,
};
use sluice_service::SecretFile;
use tempfile::TempDir;

use crate::password_registry::{Asks, Gate};

async fn head(client: &Client) -> Result<(), Error> {
    let tag = ManifestRef::Tag("1".parse().unwrap());
    client.head(&"a/b".parse().unwrap(), &tag).await.map(|_| ())
}

fn file(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let file = folder.path().join(name);
    fs::write(&file, text).unwrap();
    file
}

#[tokio::test]
async fn a_rotated_password_is_found_without_a_new_client() {
    for asks in [Asks::Basic, Asks::Token] {
        let gate = Gate::start(asks, "first").await;
        let folder = tempfile::tempdir().unwrap();
        let password = file(&folder, "password", "first\n");
        let client = gate.client(Some(CredentialSource::password(
            "user",
            SecretFile::at(&password),
        )));
        head(&client).await.unwrap();
        gate.set_password("the second");
        file(&folder, "password", "the second\n");
        head(&client)
            .await
            .unwrap_or_else(|error| panic!("{asks:?}: {error}"));
    }
}

#[tokio::test]
async fn a_wrong_password_is_tried_once() {
    let gate = Gate::start(Asks::Token, "right").await;
    let folder = tempfile::tempdir().unwrap();
    let password = file(&folder, "password", "wrong");
    let client = gate.client(Some(CredentialSource::password(
        "user",
        SecretFile::at(&password),
    )));
    let error = head(&client).await.unwrap_err();
    assert!(matches!(error, Error::UnexpectedStatus { .. }), "{error}");
    let logins = gate.heard();
    let logins = logins.iter().filter(|heard| heard.line.contains("/token"));
    // Too many wrong logins lock an account.
    assert_eq!(logins.count(), 1);
}

#[tokio::test]
async fn a_password_file_that_is_away_for_a_moment_is_waited_for() {
    let gate = Gate::start(Asks::Basic, "right").await;
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("password");
    let client = gate.client(Some(CredentialSource::password(
        "user",
        SecretFile::at(&missing),
    )));
    let error = head(&client).await.unwrap_err();
    assert!(matches!(error, Error::Credential { .. }), "{error}");
    assert!(
        error.to_string().contains(missing.to_str().unwrap()),
        "{error}"
    );
    assert!(
        gate.heard()
            .iter()
            .all(|heard| heard.authorization.is_none())
    );
    file(&folder, "password", "right");
    head(&client).await.unwrap();
}

#[tokio::test]
async fn a_login_of_docker_goes_to_its_registry_and_to_no_other() {
    let (own, other) = (
        Gate::start(Asks::Basic, "right").await,
        Gate::start(Asks::Basic, "right").await,
    );
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        r#"{{"auths": {{"{}": {{"auth": "{}"}}}}}}"#,
        own.host,
        STANDARD.encode("user:right")
    );
    let config = file(&folder, "config.json", &config);
    let source = CredentialSource::docker_config([config]);
    head(&own.client(Some(source.clone()))).await.unwrap();
    // It would be let in there as well.
    assert!(head(&other.client(Some(source))).await.is_err());
    let heard = other.heard();
    assert!(!heard.is_empty() && heard.iter().all(|heard| heard.authorization.is_none()));
}

#[tokio::test]
async fn an_identity_token_is_exchanged_and_not_sent_to_the_registry() {
    let gate = Gate::start(Asks::Token, "identity").await;
    gate.set_answer(r#"{"access_token":"TOKEN","refresh_token":"another"}"#);
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        r#"{{"auths": {{"{}": {{"identitytoken": "identity"}}}}}}"#,
        gate.host
    );
    let config = file(&folder, "config.json", &config);
    let client = gate.client(Some(CredentialSource::docker_config([config])));
    head(&client).await.unwrap();
    head(&client).await.unwrap();
    let heard = gate.heard();
    let exchanges: Vec<_> = heard
        .iter()
        .filter(|heard| heard.line.contains("/token"))
        .collect();
    assert_eq!(exchanges.len(), 1, "{heard:?}");
    let body = &exchanges[0].body;
    for pair in [
        "grant_type=refresh_token",
        "client_id=sluice",
        "service=here",
        "scope=repository%3Aa%2Fb%3Apull",
    ] {
        assert!(body.split('&').any(|found| found == pair), "{pair}: {body}");
    }
    assert_eq!(exchanges[0].line, "POST /token");
    for asked in heard.iter().filter(|heard| !heard.line.contains("/token")) {
        let told = format!("{asked:?}");
        assert!(!told.contains("identity"), "{told}");
    }
}

#[tokio::test]
async fn an_identity_token_is_no_password() {
    let gate = Gate::start(Asks::Basic, "identity").await;
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        r#"{{"auths": {{"{}": {{"identitytoken": "identity"}}}}}}"#,
        gate.host
    );
    let config = file(&folder, "config.json", &config);
    let error = head(&gate.client(Some(CredentialSource::docker_config([config])))).await;
    assert!(matches!(error, Err(Error::Untrusted { .. })), "{error:?}");
    assert!(
        gate.heard()
            .iter()
            .all(|heard| heard.authorization.is_none())
    );
}

#[tokio::test]
async fn every_form_of_a_token_answer_is_understood() {
    for answer in [
        r#"{"token":"TOKEN"}"#,
        r#"{"access_token":"TOKEN"}"#,
        r#"{"token":"","access_token":"TOKEN","expires_in":0}"#,
        r#"{"token":"TOKEN","access_token":"TOKEN","expires_in":300,"issued_at":"2026-11-25T00:00:00Z"}"#,
    ] {
        let gate = Gate::start(Asks::Token, "right").await;
        gate.set_answer(answer);
        let folder = tempfile::tempdir().unwrap();
        let password = file(&folder, "password", "right");
        let client = gate.client(Some(CredentialSource::password(
            "user",
            SecretFile::at(&password),
        )));
        head(&client)
            .await
            .unwrap_or_else(|error| panic!("{answer}: {error}"));
    }
}

#[tokio::test]
async fn a_check_tells_what_an_account_may_do_and_leaves_no_upload() {
    let gate = Gate::start(Asks::Token, "right").await;
    let folder = tempfile::tempdir().unwrap();
    let password = file(&folder, "password", "right");
    let client = gate.client(Some(CredentialSource::password(
        "user",
        SecretFile::at(&password),
    )));
    let repository = "a/b".parse().unwrap();
    let authentication = Authentication::Token {
        issuer: "127.0.0.1".to_owned(),
    };
    for (writable, right) in [(true, Permission::Granted), (false, Permission::Denied)] {
        gate.set_writable(writable);
        gate.heard();
        let checked = client
            .check_access(Some((&repository, Access::PullAndPush)))
            .await
            .unwrap();
        let expected = AccessReport {
            authentication: authentication.clone(),
            pull: Some(Permission::Granted),
            push: Some(right),
        };
        assert_eq!(checked, expected);
        let given_up = gate
            .heard()
            .iter()
            .filter(|heard| heard.line.starts_with("DELETE"))
            .count();
        assert_eq!(given_up, usize::from(writable));
    }
    // Without being asked it writes nothing.
    client
        .check_access(Some((&repository, Access::Pull)))
        .await
        .unwrap();
    assert!(
        gate.heard()
            .iter()
            .all(|heard| heard.line.starts_with("GET"))
    );
    assert!(gate.client(None).check_access(None).await.is_err());
}

#[test]
fn every_name_of_docker_hub_has_one_endpoint() {
    for name in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
        let endpoint = Endpoint::of(&name.parse().unwrap(), false).unwrap();
        assert_eq!(endpoint.base.as_str(), "https://registry-1.docker.io/");
        assert_eq!(endpoint.realms, ["auth.docker.io"]);
    }
    for (name, realms) in [
        ("registry.gitlab.com", &["gitlab.com"][..]),
        ("ghcr.io", &[]),
        ("registry.gitlab.com.example", &[]),
    ] {
        let host: RegistryHost = name.parse().unwrap();
        assert_eq!(Endpoint::of(&host, false).unwrap().realms, realms, "{name}");
    }
}

#[test]
fn the_logins_of_a_person_are_where_docker_and_podman_keep_them() {
    let files = |set: &[(&str, &str)]| {
        let source = CredentialSource::personal(|name| {
            let found = set.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        });
        format!("{source:?}")
    };
    let all = files(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/r")]);
    let order = [
        "/h/.docker/config.json",
        "/r/containers/auth.json",
        "/h/.config/containers/auth.json",
    ];
    let places: Vec<_> = order.iter().map(|file| all.find(file).unwrap()).collect();
    assert!(places.is_sorted(), "{all}");
    let moved = files(&[("HOME", "/h"), ("DOCKER_CONFIG", "/d")]);
    assert!(
        moved.contains("\"/d/config.json\"") && !moved.contains(".docker"),
        "{moved}"
    );
    let one = files(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/a.json")]);
    assert!(one.contains("[User(\"/a.json\")]"), "{one}");
}
