//! Starts nats-server and Distribution with their configurations, and waits until they are ready.

mod child;
mod full_disk;
mod orphans;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use sluice_bus::ServerConfig;
use sluice_bus::permissions::ADMIN;
use sluice_gateway::{KeyFolder, NATS_ACCOUNTS_INCLUDE};
use sluice_service::{Host, secret_file};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

pub(crate) use self::child::Children;
use self::child::Program;
pub(crate) use self::orphans::stop as stop_orphans;
use crate::data_folder::DataFolder;
use crate::endpoints::NatsEndpoint;
use crate::registry_config::RegistryConfig;

/// Heap growth before Go collects garbage, in percent. Distribution allocates much for each request and keeps little: with
/// the default of 100, garbage collection takes a third of its processor time.
const GOGC: &str = "400";
/// How long a server may take to become ready; nats-server reads its streams first.
const START_LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);
const RESPONSE_LIMIT: Duration = Duration::from_secs(2);

/// Starts nats-server and waits until it accepts connections.
pub(crate) async fn start_nats(
    children: &Children,
    host: &Host,
    program: &Path,
    listen: SocketAddr,
    data: &DataFolder,
    keys: &KeyFolder,
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
        };
        data.write_config("nats-server.conf", &config.render(NATS_ACCOUNTS_INCLUDE))
    };
    for (name, text) in keys.nats_files()? {
        data.write_config(name, &text)?;
    }
    let first = config(listen)?;
    let restart = children.spawn(
        host,
        Program {
            name: "nats-server",
            path: program.to_owned(),
            arguments: vec!["-c".into(), first.into()],
            environment: &[],
            log: data.log("nats-server")?,
        },
    )?;
    let url = wait_until_ready("nats-server", || async { listen_url(&ports) }).await?;
    // After a restart it must listen on the same port.
    let port = url.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    config(SocketAddr::new(listen.ip(), port.unwrap_or(listen.port())))?;
    let watch = full_disk::restart_when_writable(host.clone(), ports, restart);
    host.spawn("disk", watch);
    Ok(NatsEndpoint {
        url,
        user: ADMIN.to_owned(),
        password_file: Some(keys.nats_password(ADMIN)),
        credentials_file: None,
        ca_file: None,
        // A listener for other machines was allowed by an option.
        allow_plain_text: !listen.ip().is_loopback(),
        passwords: Some(keys.nats()),
    })
}

/// Returns the URL that nats-server writes to a file once it listens.
fn listen_url(folder: &Path) -> Option<String> {
    port_files(folder).iter().find_map(|file| {
        let ports: Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
        Some(ports.get("nats")?.get(0)?.as_str()?.to_owned())
    })
}

fn port_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "ports"))
        .collect()
}

/// Starts Distribution and waits until it responds.
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
    children.spawn(
        host,
        Program {
            name: "registry",
            path: program.to_owned(),
            arguments: vec!["serve".into(), config.into()],
            environment: &[("GOGC", GOGC)],
            log: data.log("registry")?,
        },
    )?;
    wait_until_ready("the registry", || probe(listen)).await
}

/// Returns the configuration of Distribution for the keys of an installation.
pub(crate) fn registry_config(
    listen: SocketAddr,
    data: &DataFolder,
    public: &str,
    gateway: &str,
    keys: &KeyFolder,
) -> anyhow::Result<Value> {
    let http_secret = secret_file(&keys.registry_http())?;
    let notifications_secret = secret_file(&keys.notifications())?;
    let config = RegistryConfig {
        listen,
        storage: &data.join("registry"),
        token_url: &format!("{}/token", public.trim_end_matches('/')),
        notifications_url: &format!("{gateway}/notifications"),
        certificate: &keys.certificate(),
        http_secret: &http_secret,
        notifications_secret: &notifications_secret,
    };
    Ok(config.render())
}

/// Requests the API version of Distribution.
async fn probe(address: SocketAddr) -> Option<()> {
    let request = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /v2/ HTTP/1.0\r\nhost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.take(4_096).read_to_string(&mut response).await?;
        std::io::Result::Ok(response)
    };
    let response = timeout(RESPONSE_LIMIT, request).await.ok()?.ok()?;
    response
        .to_ascii_lowercase()
        .contains("docker-distribution-api-version")
        .then_some(())
}

async fn wait_until_ready<T, F>(what: &str, mut condition: impl FnMut() -> F) -> anyhow::Result<T>
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
        .with_context(|| format!("{what} is not ready after {START_LIMIT:?}"))
}
