//! Registries that want a certificate of their clients, with authorities of their own, also through a proxy.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sluice_domain::{Class, Classify as _};
use sluice_registry::{
    Access, AccessReport, Authentication, Client, ClientCertificate, CredentialSource, Endpoint,
    Error, Permission, Proxy,
};
use sluice_service::SecretFile;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::real;
use crate::tunnel::Tunnel;

/// An authority with a certificate of a server and one of a client, all in files.
struct Authority(TempDir);

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer =
            CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap();
        let authority = Self(tempfile::tempdir().unwrap());
        fs::write(authority.file("ca.pem"), issuer.pem()).unwrap();
        for (name, purpose) in [
            ("server", ExtendedKeyUsagePurpose::ServerAuth),
            ("client", ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let key = KeyPair::generate().unwrap();
            let mut leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            leaf.extended_key_usages = vec![purpose];
            let certificate = leaf.signed_by(&key, &issuer).unwrap();
            fs::write(authority.file(&format!("{name}.pem")), certificate.pem()).unwrap();
            fs::write(authority.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        authority
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn endpoint(&self, host: &str) -> Endpoint {
        let mut endpoint = Endpoint::of(&host.parse().unwrap(), false).unwrap();
        endpoint.ca = Some(SecretFile::at(&self.file("ca.pem")));
        endpoint.client_certificate = Some(ClientCertificate {
            certificate: SecretFile::at(&self.file("client.pem")),
            key: SecretFile::at(&self.file("client.key")),
        });
        endpoint
    }

    /// Starts a server that takes any client, answers them all the same, and notes who showed a certificate.
    async fn server(&self, answer: &str) -> (SocketAddr, Arc<Mutex<Vec<bool>>>) {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.file("ca.pem")).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()
                .unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![CertificateDer::from_pem_file(self.file("server.pem")).unwrap()],
                PrivateKeyDer::from_pem_file(self.file("server.key")).unwrap(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shown, noted) = (Arc::<Mutex<Vec<bool>>>::default(), answer.to_owned());
        let notes = shown.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let is_shown = stream.get_ref().1.peer_certificates().is_some();
                notes.lock().unwrap().push(is_shown);
                let mut request = [0; 8_192];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(noted.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        (address, shown)
    }
}

async fn distribution(authority: &Authority, folder: &Path) -> real::Registry {
    // The password is `planted-secret`.
    let users = folder.join("htpasswd");
    let hash = "$2y$05$abcdefghijklmnopqrstuuXs.k5mDrF5z11SX84JkvXLZvkAq6Q7C";
    fs::write(&users, format!("user:{hash}\n")).unwrap();
    let file = |name: &str| authority.file(name).display().to_string();
    let tls = format!(
        ", tls: {{certificate: {}, key: {}, clientcas: [{}]}}",
        file("server.pem"),
        file("server.key"),
        file("ca.pem")
    );
    let auth = format!(
        "auth: {{htpasswd: {{realm: here, path: {}}}}}\n",
        users.display()
    );
    real::Registry::configured(&tls, &auth).await
}

#[tokio::test]
async fn distribution_lets_in_who_has_a_certificate_and_a_password() {
    let (authority, folder) = (Authority::new(), tempfile::tempdir().unwrap());
    let registry = distribution(&authority, folder.path()).await;
    let tunnel = Tunnel::start(None).await;
    let password = folder.path().join("password");
    fs::write(&password, "planted-secret\n").unwrap();
    let mut endpoint = authority.endpoint(&registry.host);
    endpoint.source = Some(CredentialSource::password(
        "user",
        SecretFile::at(&password),
    ));
    endpoint.proxy = Some(Proxy::Server {
        url: tunnel.address.parse().unwrap(),
        login: None,
        bypass: Vec::new(),
    });
    let repository = "a/b".parse().unwrap();
    let client = Client::new(endpoint.clone()).unwrap();
    let checked = client
        .check_access(Some((&repository, Access::PullAndPush)))
        .await
        .unwrap();
    let expected = AccessReport {
        authentication: Authentication::Basic,
        pull: Some(Permission::NoRepository),
        push: Some(Permission::Granted),
    };
    assert_eq!(checked, expected);
    // The proxy carries it without seeing any of it.
    let heads = tunnel.heads();
    let connect = format!("CONNECT {} HTTP/1.1", registry.host);
    assert!(
        !heads.is_empty() && heads.iter().all(|head| head.starts_with(&connect)),
        "{heads:?}"
    );

    fs::write(&password, "wrong").unwrap();
    let wrong = Client::new(endpoint.clone()).unwrap();
    let error = wrong
        .check_access(Some((&repository, Access::PullAndPush)))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::UnexpectedStatus { .. }), "{error:?}");

    endpoint.client_certificate = None;
    let bare = Client::new(endpoint).unwrap();
    let error = bare.check_access(None).await.unwrap_err();
    assert!(
        matches!(error, Error::ClientCertificate { .. }),
        "{error:?}"
    );
    assert_eq!(error.class(), Class::Permanent);
}

#[tokio::test]
async fn an_authority_that_is_not_named_is_not_trusted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (address, shown) = authority
        .server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .await;
    let mut endpoint = authority.endpoint(&address.to_string());
    endpoint.ca = Some(SecretFile::at(&other.file("ca.pem")));
    for public in [false, true] {
        endpoint.public_authorities = public;
        let client = Client::new(endpoint.clone()).unwrap();
        let error = client.check_access(None).await.unwrap_err();
        assert!(matches!(error, Error::Certificate { .. }), "{error:?}");
    }
    assert!(shown.lock().unwrap().is_empty());
    // Both kinds of authorities count where both are wanted.
    endpoint.ca = Some(SecretFile::at(&authority.file("ca.pem")));
    let client = Client::new(endpoint).unwrap();
    client.check_access(None).await.unwrap();
}

#[tokio::test]
async fn the_certificate_of_the_client_is_shown_to_the_registry_only() {
    let authority = Authority::new();
    let (elsewhere, shown_elsewhere) = authority
        .server("HTTP/1.1 404 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        .await;
    let redirect = format!(
        "HTTP/1.1 307 There\r\nlocation: https://{elsewhere}/x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    let (home, shown_at_home) = authority.server(&redirect).await;
    let client = Client::new(authority.endpoint(&home.to_string())).unwrap();
    let tag = sluice_registry::ManifestRef::Tag("1".parse().unwrap());
    let head = client.head(&"a/b".parse().unwrap(), &tag).await;
    assert!(matches!(head, Ok(None)), "{head:?}");
    assert_eq!(*shown_at_home.lock().unwrap(), [true]);
    assert_eq!(*shown_elsewhere.lock().unwrap(), [false]);
}

#[tokio::test]
async fn files_that_are_no_certificates_are_refused_without_what_is_in_them() {
    let authority = Authority::new();
    let endpoint = authority.endpoint("127.0.0.1:1");
    let client = Client::new(endpoint.clone()).unwrap();
    assert!(client.is_current());
    for name in ["ca.pem", "client.pem", "client.key"] {
        let before = fs::read(authority.file(name)).unwrap();
        for text in [
            "planted-secret",
            "-----BEGIN PRIVATE KEY-----\nplanted-secret\n",
            "",
        ] {
            fs::write(authority.file(name), text).unwrap();
            let error = Client::new(endpoint.clone()).unwrap_err();
            assert!(matches!(error, Error::Settings { .. }), "{name}: {error:?}");
            assert!(error.to_string().contains(name), "{error}");
            assert!(!error.to_string().contains("planted"), "{error}");
        }
        fs::remove_file(authority.file(name)).unwrap();
        assert!(Client::new(endpoint.clone()).is_err(), "{name}");
        assert!(!client.is_current(), "{name}");
        fs::write(authority.file(name), before).unwrap();
    }
    Client::new(endpoint).unwrap();
}
