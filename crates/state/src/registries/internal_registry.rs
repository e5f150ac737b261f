//! The client of the internal registry for the account of a service.

use anyhow::Context as _;
use sluice_registry::{Client, CredentialSource, Endpoint};
use sluice_service::{RegistrySettings, SecretFile, secret_file};

/// Creates the client of the internal registry for the account of a service.
pub fn internal_registry(settings: &RegistrySettings) -> anyhow::Result<Client> {
    let host = settings
        .url
        .host_str()
        .context("the URL of the registry has no host")?;
    let host = settings
        .url
        .port()
        .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let mut endpoint = Endpoint::at(host.parse()?, settings.url.clone());
    if let Some(file) = &settings.password_file {
        // An unreadable file fails the start; later the client reads it again after each refusal.
        secret_file(file)?;
        let file = SecretFile::at(file);
        endpoint.source = Some(CredentialSource::password(&settings.account, file));
    }
    endpoint.realms = settings.token_host.iter().cloned().collect();
    endpoint.token_url = settings.token_url.clone();
    endpoint.ca = settings.ca_file.as_deref().map(SecretFile::at);
    Ok(Client::new(endpoint)?)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use sluice_domain::Tag;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Starts an empty registry that accepts one credential and answers 401 to all others.
    #[expect(clippy::disallowed_methods, reason = "it ends with its runtime")]
    async fn registry(wanted: Arc<Mutex<&'static str>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut head, mut part) = (Vec::new(), [0; 1_024]);
                while !head.ends_with(b"\r\n\r\n") {
                    let read = stream.read(&mut part).await.unwrap();
                    head.extend_from_slice(&part[..read]);
                }
                let wanted = format!("authorization: Basic {}\r\n", wanted.lock().unwrap());
                let answer = if String::from_utf8(head).unwrap().contains(&wanted) {
                    "404 Not Found\r\n"
                } else {
                    "401 Who\r\nwww-authenticate: Basic realm=\"x\"\r\n"
                };
                let answer = format!("HTTP/1.1 {answer}connection: close\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        url
    }

    #[tokio::test]
    async fn the_password_of_a_service_is_read_again_after_a_refusal() {
        sluice_service::install_crypto();
        // In base64: scanner:first, scanner:second.
        let wanted = Arc::new(Mutex::new("c2Nhbm5lcjpmaXJzdA=="));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        std::fs::write(&file, "first\n").unwrap();
        let settings = RegistrySettings {
            url: registry(wanted.clone()).await.parse().unwrap(),
            account: "scanner".to_owned(),
            password_file: Some(file.clone()),
            token_host: None,
            token_url: None,
            ca_file: None,
            allow_plain_text: false,
        };
        let client = internal_registry(&settings).unwrap();
        let tag: Tag = "1".parse().unwrap();
        let head = || async {
            let repository = "hub/app".parse().unwrap();
            client.head(&repository, &(&tag).into()).await.unwrap()
        };
        assert_eq!(head().await, None);
        std::fs::write(&file, "second\n").unwrap();
        *wanted.lock().unwrap() = "c2Nhbm5lcjpzZWNvbmQ=";
        assert_eq!(head().await, None);
        std::fs::remove_file(&file).unwrap();
        assert!(internal_registry(&settings).is_err());
    }
}
