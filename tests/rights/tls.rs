//! The way to nats-server is encrypted, and only the server that is meant is spoken to.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sluice_bus::{Bus, ProvisionOptions};
use sluice_gateway::KeyFolder;
use sluice_service::BusSettings;
use sluice_tests::Nats;
use tokio::time::Instant;

use crate::raw::Raw;

/// An authority with its certificate as a file.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(folder: &Path, name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let issuer = CertifiedIssuer::self_signed(parameters, key).unwrap();
        let file = folder.join(name);
        fs::write(&file, issuer.pem()).unwrap();
        Self { issuer, file }
    }

    /// Returns the files of a certificate for this machine and of its key.
    fn certify(&self, folder: &Path, host: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let files = (
            folder.join(format!("{host}.pem")),
            folder.join(format!("{host}.key")),
        );
        fs::write(&files.0, certificate.pem()).unwrap();
        fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }
}

fn start(keys: &KeyFolder, (certificate, key): &(PathBuf, PathBuf)) -> Nats {
    let tls = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\" }}\n",
        certificate.display(),
        key.display()
    );
    Nats::configured(keys, None, |config| tls + config)
}

fn settings(nats: &Nats, keys: &KeyFolder, ca_file: Option<&Path>) -> BusSettings {
    let address = nats.url.rsplit('/').next().unwrap();
    BusSettings {
        url: format!("nats://{address}"),
        user: "admin".to_owned(),
        password_file: Some(keys.nats_password("admin")),
        credentials_file: None,
        ca_file: ca_file.map(Path::to_path_buf),
        allow_plain_text: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_server_that_the_authority_vouches_for_is_spoken_to() {
    sluice_service::install_crypto();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let keys = KeyFolder::at(path.join("keys"));
    keys.create().unwrap();
    let (ours, theirs) = (
        Authority::new(path, "ours.pem"),
        Authority::new(path, "theirs.pem"),
    );
    let nats = start(&keys, &ours.certify(path, "127.0.0.1"));
    let bus = Bus::connect(&settings(&nats, &keys, Some(&ours.file)), "test")
        .await
        .unwrap();
    bus.provision(ProvisionOptions::default()).await.unwrap();
    // Neither a server of another authority nor one with another name, and nothing is waited for.
    let elsewhere = start(&keys, &ours.certify(path, "elsewhere.example"));
    let wrong = [
        settings(&nats, &keys, Some(&theirs.file)),
        settings(&nats, &keys, None),
        settings(&elsewhere, &keys, Some(&ours.file)),
    ];
    for wrong in wrong {
        let since = Instant::now();
        let error = Bus::connect(&wrong, "test").await.unwrap_err();
        let told = format!("{error:#}").to_lowercase();
        assert!(told.contains("certificate"), "{told}");
        assert!(since.elapsed() < Duration::from_secs(5), "{told}");
    }
}

#[test]
fn neither_side_speaks_in_plain_text() {
    sluice_service::install_crypto();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let keys = KeyFolder::at(path.join("keys"));
    keys.create().unwrap();
    let ours = Authority::new(path, "ours.pem");
    let guarded = start(&keys, &ours.certify(path, "127.0.0.1"));
    let password = fs::read_to_string(keys.nats_password("poller")).unwrap();
    let address = guarded.url.rsplit('/').next().unwrap();
    let refused = Raw::login(&format!("nats://{address}"), "poller", &password);
    assert!(refused.is_err(), "the server took a password in plain text");
    // A server that offers no TLS gets no password.
    let open = Nats::configured(&keys, None, str::to_owned);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let to_open = settings(&open, &keys, Some(&ours.file));
    let connect = Bus::connect(&to_open, "test");
    let told = format!("{:#}", runtime.block_on(connect).unwrap_err());
    // What the server says in the clear is not what begins an encrypted conversation.
    assert!(told.contains("corrupt message"), "{told}");
}
