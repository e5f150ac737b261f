//! The way to a registry through a proxy.

use std::fs;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sluice_registry::{Client, Endpoint, Error, Proxy};
use sluice_service::SecretFile;

use crate::scripted_registry::ScriptedRegistry;
use crate::tunnel::Tunnel;

async fn reach(host: &str, proxy: Option<Proxy>) -> Result<(), Error> {
    let mut endpoint = Endpoint::of(&host.parse().unwrap(), true).unwrap();
    endpoint.proxy = proxy;
    let client = Client::new(endpoint)?;
    client.check_access(None).await.map(|_| ())
}

fn server(tunnel: &Tunnel, login: Option<(&str, &std::path::Path)>, bypass: &[&str]) -> Proxy {
    Proxy::Server {
        url: tunnel.address.parse().unwrap(),
        login: login.map(|(user, file)| (user.to_owned(), SecretFile::at(file))),
        bypass: bypass.iter().map(ToString::to_string).collect(),
    }
}

async fn registry() -> ScriptedRegistry {
    let scripted = ScriptedRegistry::start().await;
    scripted.on("GET /v2/", 200, &[], "{}");
    scripted
}

#[tokio::test]
async fn a_registry_is_reached_through_its_proxy_with_the_password_of_the_proxy() {
    let scripted = registry().await;
    let shown = format!("Basic {}", STANDARD.encode("porter:open:up"));
    let tunnel = Tunnel::start(Some(&shown)).await;
    let folder = tempfile::tempdir().unwrap();
    let password = folder.path().join("password");
    fs::write(&password, "open:up\n").unwrap();
    let proxy = server(&tunnel, Some(("porter", &password)), &[]);
    reach(&scripted.host, Some(proxy)).await.unwrap();
    assert_eq!(tunnel.heads().len(), 1);
    assert_eq!(scripted.asked().len(), 1);
    // Without the password nothing gets through, and nothing goes round the proxy either.
    let refused = reach(&scripted.host, Some(server(&tunnel, None, &[]))).await;
    assert!(refused.is_err());
    assert_eq!(scripted.asked().len(), 1);
}

#[tokio::test]
async fn what_needs_no_proxy_goes_round_it() {
    let scripted = registry().await;
    let tunnel = Tunnel::start(None).await;
    for (bypass, passed) in [
        (&["127.0.0.1"][..], 0),
        (&["10.0.0.0/8", "127.0.0.0/8"], 0),
        (&["127.0.0.2", "example.com"], 1),
        (&[&scripted.host], 0),
        (&["127.0.0.1:1"], 1),
        (&["*"], 0),
    ] {
        let before = tunnel.heads().len();
        reach(&scripted.host, Some(server(&tunnel, None, bypass)))
            .await
            .unwrap();
        assert_eq!(tunnel.heads().len() - before, passed, "{bypass:?}");
    }
}

#[tokio::test]
async fn the_environment_is_asked_only_where_the_setting_says_so() {
    const CHILD: &str = "SLUICE_TEST_REACH";
    if let Ok(told) = std::env::var(CHILD) {
        let (host, setting) = told.split_once(' ').unwrap();
        let proxy = (setting == "environment").then_some(Proxy::Environment);
        reach(host, proxy).await.unwrap();
        return;
    }
    let scripted = registry().await;
    let tunnel = Tunnel::start(None).await;
    let elsewhere = "127.0.0.1:1, other.example".to_owned();
    for (setting, bypass, passed) in [
        ("nothing", &elsewhere, 0),
        ("environment", &elsewhere, 1),
        ("environment", &scripted.host, 0),
        ("environment", &"10.0.0.0/8,127.0.0.0/8".to_owned(), 0),
        ("environment", &"*".to_owned(), 0),
    ] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child
            .args([
                "--exact",
                "proxies::the_environment_is_asked_only_where_the_setting_says_so",
            ])
            .env(CHILD, format!("{} {setting}", scripted.host))
            .env("HTTP_PROXY", &tunnel.address)
            .env("NO_PROXY", bypass)
            .env_remove("no_proxy");
        let (before, through) = (scripted.asked().len(), tunnel.heads().len());
        let ended = tokio::task::spawn_blocking(move || child.output().unwrap())
            .await
            .unwrap();
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(scripted.asked().len() - before, 1, "{setting}");
        assert_eq!(tunnel.heads().len() - through, passed, "{setting} {bypass}");
    }
}
