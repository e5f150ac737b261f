//! A service that starts before NATS waits for it; a command does not.

use sluice_service::Host;

use super::*;

fn settings(url: &str, password_file: Option<std::path::PathBuf>) -> BusSettings {
    BusSettings {
        url: url.to_owned(),
        user: password_file.as_ref().map_or("", |_| "poller").to_owned(),
        password_file,
        credentials_file: None,
        ca_file: None,
        allow_plain_text: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_waits_for_a_server_that_starts_later_and_is_not_ready_meanwhile() {
    let mut nats = tokio::task::spawn_blocking(Nats::start).await.unwrap();
    nats.kill();
    let settings = settings(&nats.url, None);
    assert!(Bus::connect(&settings, "test").await.is_err());
    let host = Host::new("poller");
    let connecting = {
        let (settings, host) = (settings.clone(), host.clone());
        tokio::spawn(async move { Bus::connect_service(&settings, "poller", &host).await })
    };
    until("the service to wait", || async {
        host.waits_for() == ["poller/bus"]
    })
    .await;
    assert!(!connecting.is_finished());
    let restarted = tokio::task::spawn_blocking(move || {
        nats.restart();
        nats
    });
    let _nats = restarted.await.unwrap();
    connecting.await.unwrap().unwrap();
    until("the service to be ready", || async {
        host.waits_for().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_servers_one_that_runs_is_used() {
    let nats = tokio::task::spawn_blocking(Nats::start).await.unwrap();
    // Nobody listens on port 1.
    for url in [
        format!("nats://127.0.0.1:1, {}", nats.url),
        format!("{},nats://127.0.0.1:1", nats.url),
    ] {
        Bus::connect(&settings(&url, None), "test").await.unwrap();
    }
    // Where one of them is to have TLS, no other gets the password without it.
    let mixed = format!("tls://127.0.0.1:1,{}", nats.url);
    assert!(Bus::connect(&settings(&mixed, None), "test").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_does_not_wait_for_a_server_that_refuses_its_password() {
    let folder = tempfile::tempdir().unwrap();
    let keys = sluice_gateway::KeyFolder::at(folder.path().to_owned());
    keys.create().unwrap();
    let nats = {
        let keys = keys.clone();
        tokio::task::spawn_blocking(move || Nats::guarded(&keys, None))
    };
    let nats = nats.await.unwrap();
    let wrong = folder.path().join("wrong");
    std::fs::write(&wrong, "wrong").unwrap();
    let host = Host::new("poller");
    let refused = Bus::connect_service(&settings(&nats.url, Some(wrong)), "poller", &host).await;
    let error = format!("{:#}", refused.unwrap_err());
    assert!(error.contains("authorization violation"), "{error}");
}
