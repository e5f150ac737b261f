//! The probe of a running process, for containers that have neither a shell nor an HTTP client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use crate::settings::HttpSettings;

/// How long the response may take.
const LIMIT: Duration = Duration::from_secs(2);
/// The most bytes of a response that are read.
const MAX_RESPONSE: u64 = 4 << 10;

/// Requests a URL in plain text and returns the body of the response.
///
/// # Errors
/// No response within two seconds, or one with another status than 200.
pub(super) fn probe(url: &str) -> anyhow::Result<String> {
    let parsed = Url::parse(url)
        .ok()
        .filter(|parsed| parsed.scheme() == "http");
    let parsed = parsed
        .with_context(|| format!("`{url}` is no URL such as `http://127.0.0.1:8222/healthz`"))?;
    let addresses = parsed
        .socket_addrs(|| None)
        .with_context(|| format!("failed to resolve `{url}`"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    let response = runtime.block_on(async {
        let response = timeout(LIMIT, request(&addresses, parsed.path()));
        response
            .await
            .with_context(|| format!("no response within {LIMIT:?}"))?
            .with_context(|| format!("failed to request `{url}`"))
    })?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    let status = head.lines().next().unwrap_or_default();
    anyhow::ensure!(
        status.split(' ').nth(1) == Some("200"),
        "{status}: {}",
        body.trim()
    );
    Ok(body.trim().to_owned())
}

/// Requests whether a service with these settings is ready.
pub(crate) fn probe_readiness(settings: &HttpSettings) -> anyhow::Result<String> {
    let mut address = settings.listen;
    if let (0, Some(file)) = (address.port(), &settings.address_file) {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("failed to read the address in `{}`", file.display()))?;
        address = text
            .parse()
            .with_context(|| format!("`{}` holds no address", file.display()))?;
    }
    probe(&format!("http://{}/readyz", reachable(address)))
}

/// Replaces the address of all interfaces by the loopback address.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn request(addresses: &[SocketAddr], path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addresses).await?;
    let request = format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE).read_to_end(&mut response).await?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::path::PathBuf;
    use std::thread;

    use super::*;

    /// Serves one request with this response, and returns the address.
    fn serve(response: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let read = stream.read(&mut [0; 1024]).unwrap();
            assert!(read > 0);
            stream.write_all(response.as_bytes()).unwrap();
        });
        address
    }

    fn settings(listen: &str, address_file: Option<PathBuf>) -> HttpSettings {
        HttpSettings {
            listen: listen.parse().unwrap(),
            address_file,
            grace_seconds: 1,
        }
    }

    #[test]
    fn a_service_is_ready_if_it_says_so() {
        let address = serve("HTTP/1.0 200 OK\r\n\r\nready\n");
        let settings = settings(&format!("0.0.0.0:{}", address.port()), None);
        assert_eq!(probe_readiness(&settings).unwrap(), "ready");
    }

    #[test]
    fn what_a_service_waits_for_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("address");
        let address = serve("HTTP/1.0 503 Service Unavailable\r\n\r\nwaiting for poller/bus\n");
        std::fs::write(&file, address.to_string()).unwrap();
        let settings = settings("127.0.0.1:0", Some(file));
        let error = probe_readiness(&settings).unwrap_err().to_string();
        assert!(
            error.contains("503") && error.contains("waiting for poller/bus"),
            "{error}"
        );
    }

    #[test]
    fn a_server_that_does_not_respond_fails_the_probe_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let error = probe(&format!("http://{address}/")).unwrap_err();
        assert!(format!("{error:#}").contains("within 2s"), "{error:#}");
        drop(listener);
        assert!(probe(&format!("http://{address}/")).is_err());
        assert!(probe("https://127.0.0.1:1/").is_err());
    }
}
