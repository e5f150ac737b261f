//! The configurations of nats-server and Distribution, and when they are ready.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sluice_bus::ServerConfig;
use sluice_bus::permissions::ADMIN;
use sluice_gateway::keys::{Keys, PASSWORDS};
use sluice_service::{Host, secret_file};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::child::{Children, Start};
use super::data::DataFolder;
use super::disk;
use crate::endpoints::NatsEndpoint;

/// What the gateway calls itself and the registry in its tokens; as its defaults have it.
const TOKEN_ISSUER: &str = "sluice";
const TOKEN_SERVICE: &str = "sluice-registry";
/// How much may be allocated before Go collects, in percent of what is in use. Distribution holds little and allocates
/// much for each request, so by default (100) a third of its processor time is the collector's.
const GOGC: &str = "400";
/// How long a server may take to be ready; one with a large store reads it first.
const START_LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Starts nats-server and waits until it accepts connections.
pub(crate) async fn start_nats(
    children: &Children,
    host: &Host,
    program: &Path,
    listen: SocketAddr,
    data: &DataFolder,
    keys: &Keys,
) -> anyhow::Result<NatsEndpoint> {
    let ports = data.join("nats");
    for file in port_files(&ports) {
        fs::remove_file(&file).with_context(|| format!("failed to remove `{}`", file.display()))?;
    }
    let config = |listen| {
        let config = ServerConfig {
            listen,
            store: &ports,
            ports: Some(&ports),
            tls: None,
            passwords: PASSWORDS,
        };
        data.write_config("nats-server.conf", &config.render())
    };
    let passwords = fs::read_to_string(keys.nats_passwords())
        .with_context(|| format!("failed to read `{}`", keys.nats_passwords().display()))?;
    data.write_config(PASSWORDS, &passwords)?;
    let first = config(listen)?;
    let arguments = ["-c", text(&first)?];
    let restart = children.spawn(
        host,
        "nats-server",
        Start {
            program,
            arguments: &arguments,
            environment: &[],
        },
        data.log("nats-server")?,
    )?;
    let url = ready("nats-server", || async { bound(&ports) }).await?;
    // Started anew, it has to be where it was.
    let port = url.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    config(SocketAddr::new(listen.ip(), port.unwrap_or(listen.port())))?;
    host.spawn("disk", disk::mend(host.clone(), ports, restart));
    Ok(NatsEndpoint {
        url,
        user: ADMIN.to_owned(),
        password_file: Some(keys.nats_password(ADMIN)),
        ca_file: None,
        // Where it listens beyond this machine, that was allowed.
        allow_plain_text: !listen.ip().is_loopback(),
        passwords: Some(keys.nats()),
    })
}

/// Returns the address that nats-server wrote down once it was listening.
fn bound(folder: &Path) -> Option<String> {
    port_files(folder).iter().find_map(|file| {
        let ports: Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
        Some(ports.get("nats")?.get(0)?.as_str()?.to_owned())
    })
}

fn port_files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "ports"))
        .collect()
}

/// Starts Distribution and waits until it answers.
pub(crate) async fn start_registry(
    children: &Children,
    host: &Host,
    program: &Path,
    listen: SocketAddr,
    data: &DataFolder,
    config: &Value,
) -> anyhow::Result<()> {
    // JSON is YAML.
    let config = data.write_config("registry.yml", &config.to_string())?;
    let arguments = ["serve", text(&config)?];
    let log = data.log("registry")?;
    children.spawn(
        host,
        "registry",
        Start {
            program,
            arguments: &arguments,
            environment: &[("GOGC", GOGC)],
        },
        log,
    )?;
    ready("the registry", || answers(listen)).await
}

/// Returns the configuration of a Distribution that trusts the gateway's tokens and tells it what happens.
pub(crate) fn registry_config(
    listen: SocketAddr,
    data: &DataFolder,
    gateway: &str,
    keys: &Keys,
) -> anyhow::Result<Value> {
    let (_, http_secret) = data.secret("registry-http")?;
    let notifications = secret_file(&keys.notifications())?;
    let bearer = format!("Bearer {}", notifications.expose_secret());
    Ok(json!({
        "version": "0.1",
        // At any other level there are two lines for each request.
        "log": { "level": "error", "formatter": "json", "accesslog": { "disabled": true } },
        "storage": {
            "filesystem": { "rootdirectory": data.join("registry") },
            "cache": { "blobdescriptor": "inmemory" },
            "delete": { "enabled": true },
        },
        "auth": { "token": {
            "realm": format!("{gateway}/token"),
            "service": TOKEN_SERVICE,
            "issuer": TOKEN_ISSUER,
            "rootcertbundle": keys.certificate(),
            // Version 3 would otherwise also take keys that are a shared secret; version 2 knows no choice.
            "signingalgorithms": ["ES256"],
        } },
        "http": {
            "addr": listen,
            "secret": http_secret,
            "relativeurls": true,
            "draintimeout": "5s",
        },
        "notifications": {
            "events": { "includereferences": true },
            "endpoints": [{
                "name": "sluice",
                "url": format!("{gateway}/notifications"),
                "headers": { "Authorization": [bearer] },
                "timeout": "5s",
                "threshold": 3,
                "backoff": "1s",
                // Layers come and go with their manifests, which are told.
                "ignore": { "mediatypes": ["application/octet-stream"] },
            }],
        },
    }))
}

/// Says whether Distribution answers at an address.
async fn answers(address: SocketAddr) -> Option<()> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /v2/ HTTP/1.0\r\nhost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(4_096).read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(ANSWER_LIMIT, ask).await.ok()?.ok()?;
    let answer = answer.to_ascii_lowercase();
    answer
        .contains("docker-distribution-api-version")
        .then_some(())
}

async fn ready<T, F>(what: &str, mut condition: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Option<T>>,
{
    let wait = async {
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            sleep(PAUSE).await;
        }
    };
    timeout(START_LIMIT, wait)
        .await
        .with_context(|| format!("{what} was not ready after {START_LIMIT:?}"))
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("`{}` is not a path in UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_has_a_secret_no_debug_port_and_one_algorithm() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataFolder::open(folder.path()).unwrap();
        let keys = Keys::at(folder.path().join("keys"));
        keys.create().unwrap();
        let listen = "127.0.0.1:5000".parse().unwrap();
        let config = registry_config(listen, &data, "http://127.0.0.1:1", &keys).unwrap();
        assert_eq!(config["http"]["debug"], Value::Null);
        assert_eq!(config["log"]["level"], "error");
        assert!(config["http"]["secret"].as_str().unwrap().len() >= 32);
        let algorithms = &config["auth"]["token"]["signingalgorithms"];
        assert_eq!(*algorithms, json!(["ES256"]));
        // Nobody deletes without a token that says so.
        assert!(config["storage"]["delete"]["enabled"].as_bool().unwrap());
        assert!(config["auth"]["token"]["rootcertbundle"].is_string());
        let bearer = &config["notifications"]["endpoints"][0]["headers"]["Authorization"][0];
        assert!(bearer.as_str().unwrap().len() > "Bearer ".len() + 16);
    }
}
