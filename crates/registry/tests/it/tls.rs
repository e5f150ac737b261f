//! What TLS must not be talked out of.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use sluice_domain::{Class, Classify as _};
use sluice_registry::{Client, Endpoint, Error, ManifestRef};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::liar::Liar;

/// A registry with TLS that answers everything in the same way.
struct Guarded {
    address: SocketAddr,
    folder: TempDir,
}

impl Guarded {
    async fn start(answer: String) -> Self {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that does not trust the certificate breaks off here.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut request = [0; 8_192];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        Self { address, folder }
    }

    fn endpoint(&self, ca_file: Option<PathBuf>) -> Endpoint {
        let mut endpoint = Endpoint::of(&self.address.to_string().parse().unwrap(), false).unwrap();
        endpoint.ca_file = ca_file;
        endpoint
    }

    async fn head(&self, ca_file: Option<PathBuf>) -> Error {
        let endpoint = self.endpoint(ca_file);
        let tag = ManifestRef::Tag("1".parse().unwrap());
        let client = Client::new(endpoint).unwrap();
        client
            .head(&"a/b".parse().unwrap(), &tag)
            .await
            .unwrap_err()
    }

    fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}

fn answer(head: &str) -> String {
    format!("HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_is_final() {
    let registry = Guarded::start(answer("503 Busy")).await;
    let error = registry.head(None).await;
    assert!(matches!(error, Error::Certificate { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Permanent);
    let trusted = registry.head(Some(registry.ca_file())).await;
    assert!(matches!(trusted, Error::Refused { .. }), "{trusted:?}");
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_not_a_wrong_certificate() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let folder = tempfile::tempdir().unwrap();
    let error = Guarded { address, folder }.head(None).await;
    assert!(matches!(error, Error::Transport { .. }), "{error:?}");
    assert!(error.class().is_outage());
}

#[tokio::test]
async fn a_redirect_out_of_tls_is_not_followed() {
    let plain = Liar::start().await;
    let to = format!("307 Elsewhere\r\nlocation: http://{}/x", plain.host);
    let registry = Guarded::start(answer(&to)).await;
    let error = registry.head(Some(registry.ca_file())).await;
    assert!(matches!(error, Error::Untrusted { .. }), "{error:?}");
    assert!(error.to_string().contains("out of TLS"), "{error}");
    assert!(plain.asked().is_empty(), "the other host was asked");
}

#[tokio::test]
async fn a_token_realm_out_of_tls_gets_no_credential() {
    let plain = Liar::start().await;
    let to = format!(
        "401 Who\r\nwww-authenticate: Bearer realm=\"http://{}/token\"",
        plain.host
    );
    let registry = Guarded::start(answer(&to)).await;
    let mut endpoint = registry.endpoint(Some(registry.ca_file()));
    // The settings name the host of the issuer, and mean it with TLS.
    endpoint.realms = vec![plain.host.clone()];
    endpoint.credential = Some(sluice_registry::Credential {
        username: "user".to_owned(),
        password: "planted-secret".to_owned().into(),
    });
    let tag = ManifestRef::Tag("1".parse().unwrap());
    let client = Client::new(endpoint).unwrap();
    let error = client
        .head(&"a/b".parse().unwrap(), &tag)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("out of TLS"), "{error}");
    assert!(
        plain.asked().is_empty(),
        "the issuer was asked in clear text"
    );
}
