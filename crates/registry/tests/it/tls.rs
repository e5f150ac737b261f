//! What TLS must not be talked out of.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use sluice_domain::{Class, Classify as _};
use sluice_registry::{Client, Endpoint, Error, ManifestRef};
use sluice_service::SecretFile;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::scripted_registry::ScriptedRegistry;

/// A registry with TLS that answers everything in the same way.
struct Guarded {
    address: SocketAddr,
    folder: TempDir,
}

impl Guarded {
    async fn start(answer: String) -> Self {
        let parameters = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        Self::showing(parameters, answer).await
    }

    /// Starts one that shows a certificate of its own making.
    async fn showing(parameters: CertificateParams, answer: String) -> Self {
        let key = KeyPair::generate().unwrap();
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
        endpoint.ca = ca_file.as_deref().map(SecretFile::at);
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
    assert!(
        matches!(trusted, Error::UnexpectedStatus { .. }),
        "{trusted:?}"
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_certificate_is_said_with_what_to_do() {
    let parameters = |name: &str| CertificateParams::new(vec![name.to_owned()]).unwrap();
    let mut authority = parameters("127.0.0.1");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut expired = parameters("127.0.0.1");
    expired.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let mut early = parameters("127.0.0.1");
    early.not_before = rcgen::date_time_ymd(2999, 1, 1);
    early.not_after = rcgen::date_time_ymd(3000, 1, 1);
    for (certificate, is_named, told) in [
        (
            parameters("127.0.0.1"),
            false,
            &["`ca`", "--src-ca-file"][..],
        ),
        (authority, true, &["CA:TRUE", "CA:FALSE", "mkcert"]),
        (expired, true, &["expired", "renewed"]),
        (early, true, &["not valid yet", "clocks"]),
        (
            parameters("registry.example"),
            true,
            &["registry.example", "subjectAltName"],
        ),
        (
            CertificateParams::new(Vec::new()).unwrap(),
            true,
            &["names no host", "subjectAltName"],
        ),
    ] {
        let registry = Guarded::showing(certificate, answer("503 Busy")).await;
        let error = registry.head(is_named.then(|| registry.ca_file())).await;
        assert!(matches!(error, Error::Certificate { .. }), "{error:?}");
        for word in told {
            assert!(error.to_string().contains(word), "{word}: {error}");
        }
    }
}

#[tokio::test]
async fn a_registry_that_speaks_the_other_protocol_is_named_with_what_to_do() {
    let plain = ScriptedRegistry::start().await;
    let endpoint = Endpoint::of(&plain.host.parse().unwrap(), false).unwrap();
    let told = look(endpoint).await;
    assert!(
        told.contains("speaks plain HTTP") && told.contains(&plain.host),
        "{told}"
    );
    assert!(
        told.contains("--plain-http") && told.contains("plain_http: true"),
        "{told}"
    );
    // With a certificate that is trusted, and with one that is not.
    let guarded = Guarded::start(answer("200 OK")).await;
    for ca_file in [Some(guarded.ca_file()), None] {
        let mut endpoint = guarded.endpoint(ca_file);
        endpoint.base = format!("http://{}", guarded.address).parse().unwrap();
        let told = look(endpoint).await;
        assert!(
            told.contains("speaks TLS") && told.contains("plain_http"),
            "{told}"
        );
    }
    // Some servers answer in plain text.
    for sign in [
        "Client sent an HTTP request to an HTTPS server.\n",
        "<h1>400 Bad Request</h1> The plain HTTP request was sent to HTTPS port",
    ] {
        let scripted = ScriptedRegistry::start().await;
        for method in ["HEAD", "GET"] {
            scripted.on(&format!("{method} /v2/a/b/manifests/1"), 400, &[], sign);
        }
        let told = look(Endpoint::of(&scripted.host.parse().unwrap(), true).unwrap()).await;
        assert!(told.contains("speaks TLS"), "{told}");
    }
}

/// Looks for a tag, and returns the error, which is final.
async fn look(endpoint: Endpoint) -> String {
    let tag = ManifestRef::Tag("1".parse().unwrap());
    let client = Client::new(endpoint).unwrap();
    let head = client.head(&"a/b".parse().unwrap(), &tag).await;
    let error = head.unwrap_err();
    assert!(matches!(error, Error::WrongProtocol { .. }), "{error:?}");
    assert_eq!(error.class(), Class::Permanent);
    error.to_string()
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
    let plain = ScriptedRegistry::start().await;
    let to = format!("307 Elsewhere\r\nlocation: http://{}/x", plain.host);
    let registry = Guarded::start(answer(&to)).await;
    let error = registry.head(Some(registry.ca_file())).await;
    assert!(matches!(error, Error::Untrusted { .. }), "{error:?}");
    assert!(error.to_string().contains("out of TLS"), "{error}");
    assert!(plain.asked().is_empty(), "the other host was asked");
}

#[tokio::test]
async fn a_token_realm_out_of_tls_gets_no_credential() {
    let plain = ScriptedRegistry::start().await;
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
