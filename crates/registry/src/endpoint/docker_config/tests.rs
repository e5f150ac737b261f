//! Tests of Docker's configuration, with helpers that are scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use super::*;

/// A folder with a configuration, and with helpers that are found nowhere else.
struct Home(TempDir);

impl Home {
    fn new(config: &str) -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        fs::write(home.0.path().join("config.json"), config).unwrap();
        home
    }

    fn helper(self, name: &str, script: &str) -> Self {
        let file = self.0.path().join(format!("docker-credential-{name}"));
        let script = format!(
            "#!/bin/sh\ncd {}\ntouch ran-{name}\n{script}\n",
            self.0.path().display()
        );
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    fn ran(&self, name: &str) -> bool {
        self.0.path().join(format!("ran-{name}")).exists()
    }

    async fn account(&self, host: &str) -> Result<Option<Account>, Error> {
        let config = DockerConfig {
            files: vec![ConfigLocation::User(self.0.path().join("config.json"))],
            path: Some(format!("{}:/usr/bin:/bin", self.0.path().display()).into()),
        };
        config.account(&host.parse().unwrap()).await
    }

    async fn describe(&self, host: &str) -> String {
        match self.account(host).await {
            Ok(None) => "none".to_owned(),
            Ok(Some(Account::Password(known))) => {
                format!("{}:{}", known.username, known.password.expose_secret())
            }
            Ok(Some(Account::Identity(token))) => format!("identity {}", token.expose_secret()),
            Err(error) => error.to_string(),
        }
    }
}

fn auth(login: &str) -> String {
    STANDARD.encode(login)
}

#[tokio::test]
async fn the_login_of_a_registry_is_found_under_every_form_of_its_name() {
    let config = format!(
        r#"{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{}"}}, "quay.io": {{"auth": "{}"}},
            "https://r.example:5000/v2/": {{"username": "u", "password": "p:w"}}, "gitlab.example": {{"auth": "", "identitytoken": "id"}},
            "ghcr.io/acme": {{"auth": "{}"}}, "empty.example": {{}}}}, "credsStore": ""}}"#,
        auth("hub:pw"),
        auth("robot:a:b\0"),
        auth("part:pw")
    );
    let home = Home::new(&config.replace(r#", "credsStore": """#, ""));
    for (host, text) in [
        ("docker.io", "hub:pw"),
        ("registry-1.docker.io", "hub:pw"),
        ("quay.io", "robot:a:b"),
        ("r.example:5000", "u:p:w"),
        ("gitlab.example", "identity id"),
        // A login for a part of a registry, another port, another host: none of it is this registry's.
        ("ghcr.io", "none"),
        ("r.example", "none"),
        ("io", "none"),
        ("evil-quay.io", "none"),
        ("empty.example", "none"),
    ] {
        assert_eq!(home.describe(host).await, text, "{host}");
    }
}

#[tokio::test]
async fn a_helper_is_asked_for_its_registry_and_no_other() {
    let helps = r#"read server; echo "$server" > asked; echo '{"ServerURL": "x", "Username": "u", "Secret": "s"}'"#;
    let config = r#"{"credHelpers": {"one.example": "one", "docker.io": "hub"}}"#;
    let home = Home::new(config).helper("one", helps).helper(
        "hub",
        r#"cat > asked; echo '{"Username": "<token>", "Secret": "id"}'"#,
    );
    assert_eq!(home.describe("two.example").await, "none");
    assert!(!home.ran("one") && !home.ran("hub"));
    assert_eq!(home.describe("one.example").await, "u:s");
    let asked = || fs::read_to_string(home.0.path().join("asked")).unwrap();
    assert_eq!(asked().trim(), "one.example");
    assert!(!home.ran("hub"));
    assert_eq!(home.describe("docker.io").await, "identity id");
    assert_eq!(asked(), DOCKER_HUB);
}

#[tokio::test]
async fn a_store_that_does_not_know_the_registry_leaves_it_to_the_file() {
    let config = format!(
        r#"{{"credsStore": "pass", "auths": {{"r.example": {{"auth": "{}"}}}}}}"#,
        auth("u:file")
    );
    let home = Home::new(&config).helper("pass", &format!("echo '{NO_LOGIN}'; exit 1"));
    assert_eq!(home.describe("r.example").await, "u:file");
    assert!(home.ran("pass"));
    assert_eq!(home.describe("other.example").await, "none");
    // One that is broken is not the same as one that knows nothing.
    let home = Home::new(&config).helper("pass", "echo 'planted-secret'; exit 1");
    let text = home.describe("r.example").await;
    assert!(text.contains("`docker-credential-pass` failed"), "{text}");
    assert!(!text.contains("planted-secret"), "{text}");
}

#[tokio::test]
async fn only_a_plain_name_is_run() {
    for name in ["Loud", "a.b", "../evil", "a/../../evil", "a b", ""] {
        let config = format!(r#"{{"credHelpers": {{"r.example": "{name}"}}}}"#);
        let mut home = Home::new(&config);
        if !name.contains('/') {
            home = home.helper(name, r#"echo '{"Username": "u", "Secret": "s"}'"#);
        }
        let text = home.describe("r.example").await;
        assert!(text.contains("lower-case letters"), "{name}: {text}");
        assert!(!home.ran(name), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_helper_that_does_not_end_is_ended() {
    let home = Home::new(r#"{"credsStore": "slow"}"#).helper("slow", "exec sleep 600");
    let text = home.describe("r.example").await;
    assert!(text.contains("within 10 s"), "{text}");
}

#[tokio::test]
async fn what_a_helper_says_is_bounded_and_told_to_nobody() {
    for (script, expected) in [
        ("exec yes planted-secret", "more than 65536 bytes"),
        (
            "echo '{\"Username\": \"planted-secret\"}'",
            "what a credential helper prints",
        ),
        ("echo planted-secret", "what a credential helper prints"),
    ] {
        let home = Home::new(r#"{"credsStore": "loud"}"#).helper("loud", script);
        let text = home.describe("r.example").await;
        assert!(text.contains(expected), "{script}: {text}");
        assert!(!text.contains("planted-secret"), "{text}");
    }
    let missing = Home::new(r#"{"credsStore": "none"}"#)
        .describe("r.example")
        .await;
    assert!(
        missing.contains("`docker-credential-none` could not be run"),
        "{missing}"
    );
}

#[tokio::test]
async fn a_broken_configuration_is_told_without_what_is_in_it() {
    for config in [
        r#"{"auths": {"r.example": {"auth": "planted-secret"}}}"#,
        r#"{"auths": {"r.example": {"auth": 5}}, "planted-secret"}"#,
        r#"{"auths": {"r.example": "planted-secret"}}"#,
        "planted-secret",
    ] {
        let text = Home::new(config).describe("r.example").await;
        assert!(
            text.contains("cannot be read") && text.contains("config.json"),
            "{text}"
        );
        assert!(!text.contains("planted-secret"), "{text}");
    }
    let large = format!("{}{{}}", " ".repeat(1 << 20));
    let text = Home::new(&large).describe("r.example").await;
    assert!(text.contains("larger than"), "{text}");
}

#[tokio::test]
async fn the_first_file_that_knows_the_registry_decides() {
    let first = Home::new(&format!(
        r#"{{"auths": {{"a.example": {{"auth": "{}"}}}}}}"#,
        auth("u:1")
    ));
    let second = Home::new(&format!(
        r#"{{"auths": {{"a.example": {{"auth": "{}"}}, "b.example": {{"auth": "{}"}}}}}}"#,
        auth("u:2"),
        auth("v:2")
    ));
    let file = |home: &Home| home.0.path().join("config.json");
    let missing = PathBuf::from("/nonexistent/config.json");
    let config = DockerConfig::new(vec![missing, file(&first), file(&second)]);
    for (host, user) in [
        ("a.example", Some("1")),
        ("b.example", Some("2")),
        ("c.example", None),
    ] {
        let account = config.account(&host.parse().unwrap()).await.unwrap();
        let found = account.map(|account| match account {
            Account::Password(known) => known.password.expose_secret().to_owned(),
            Account::Identity(_) => panic!("an identity token"),
        });
        assert_eq!(found.as_deref(), user, "{host}");
    }
}

proptest! {
    #[test]
    fn a_login_is_used_at_its_own_registry_only(key in "(https?://)?[a-zA-Z0-9.:-]{1,20}(/(v1|v2|team)?/?)?", word in "[!-~]{0,9}") {
        let config = serde_json::json!({ "auths": { &key: { "auth": auth(&format!("user:{word}")) } } });
        let host: RegistryHost = "registry.example:5000".parse().unwrap();
        let bare = key.rsplit("://").next().unwrap().split('/').next().unwrap();
        let is_own = bare.eq_ignore_ascii_case(host.as_str()) && !key.contains("team");
        prop_assert_eq!(has_login(config.to_string().as_bytes(), &host), Ok(is_own), "{}", key);
    }

    #[test]
    fn no_configuration_makes_the_reader_panic_or_quote(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
        auth in "[A-Za-z0-9+/=:\\PC]{0,30}",
    ) {
        let host: RegistryHost = "a.example".parse().unwrap();
        drop(has_login(&bytes, &host));
        let text = format!(r#"{{"auths":{{"a.example":{{"auth":{}}}}}}}"#, serde_json::Value::from(format!("hidden{auth}")));
        if let Err(text) = has_login(text.as_bytes(), &host) {
            prop_assert!(!text.contains("hidden"), "{}", text);
        }
        if let Err(text) = has_login(format!("{text}x").as_bytes(), &host) {
            prop_assert!(!text.contains("hidden"), "{}", text);
        }
    }
}
