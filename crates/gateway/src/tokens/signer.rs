//! Signs registry tokens: ES256 with the certificate in `x5c`, which Distribution 2.8 and 3 both accept.

use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::DecodePrivateKey as _;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::ExposeSecret as _;
use serde::Serialize;
use serde_json::json;

use crate::tokens::grants::Access;

/// How far the clock of the registry may be behind, besides the minute that Distribution tolerates.
const EARLY_SECONDS: i64 = 5;

/// The key of the token issuer, and the claims that all its tokens share.
pub(crate) struct Signer {
    key: SigningKey,
    /// The encoded header, the same for every token.
    header: String,
    issuer: String,
    service: String,
    lifetime_seconds: u32,
}

/// The claims as Distribution reads them: 2.8 only accepts a text as `aud`, and whole seconds as times.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: i64,
    nbf: i64,
    iat: i64,
    jti: String,
    access: &'a [Access],
}

impl Signer {
    /// Reads the key and its certificate.
    pub(crate) fn open(
        key_file: &Path,
        certificate_file: &Path,
        issuer: String,
        service: String,
        lifetime_seconds: u32,
    ) -> anyhow::Result<Self> {
        let pem = sluice_service::secret_file(key_file)?;
        // Without the error of the parser, which might show parts of the key.
        let key = SigningKey::from_pkcs8_pem(pem.expose_secret())
            .ok()
            .with_context(|| {
                format!(
                    "`{}` holds no EC P-256 private key in PKCS#8",
                    key_file.display()
                )
            })?;
        let certificate = certificate_of(&key, certificate_file)?;
        let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(certificate)] });
        Ok(Self {
            key,
            header: URL_SAFE_NO_PAD.encode(header.to_string()),
            issuer,
            service,
            lifetime_seconds,
        })
    }

    /// Returns the service that the tokens are for.
    pub(crate) fn service(&self) -> &str {
        &self.service
    }

    /// Returns the lifetime of a token.
    pub(crate) const fn lifetime_seconds(&self) -> u32 {
        self.lifetime_seconds
    }

    /// Signs a token.
    pub(crate) fn sign(
        &self,
        subject: &str,
        access: &[Access],
        now: DateTime<Utc>,
    ) -> Result<String, serde_json::Error> {
        let now = now.timestamp();
        let claims = Claims {
            iss: &self.issuer,
            sub: subject,
            aud: &self.service,
            exp: now + i64::from(self.lifetime_seconds),
            nbf: now - EARLY_SECONDS,
            iat: now,
            jti: uuid::Uuid::new_v4().simple().to_string(),
            access,
        };
        let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims)?);
        let message = format!("{}.{claims}", self.header);
        let signature: Signature = self.key.sign(message.as_bytes());
        Ok(format!(
            "{message}.{}",
            URL_SAFE_NO_PAD.encode(signature.to_bytes())
        ))
    }
}

/// Finds the certificate of a key: of several, as during a rotation, the one with its public key.
fn certificate_of(key: &SigningKey, file: &Path) -> anyhow::Result<CertificateDer<'static>> {
    let public = key.verifying_key().to_sec1_point(false);
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("failed to read a certificate from `{}`", file.display()))?;
    certificates
        .into_iter()
        .find(|certificate| {
            certificate
                .windows(public.len())
                .any(|window| window == public.as_bytes())
        })
        .with_context(|| {
            format!(
                "`{}` holds no certificate of the signing key",
                file.display()
            )
        })
}

#[cfg(test)]
mod tests {
    use p256::ecdsa::signature::Verifier as _;
    use serde_json::Value;

    use super::*;
    use crate::tokens::key_folder::KeyFolder;

    fn open(keys: &KeyFolder, certificate: &Path) -> anyhow::Result<Signer> {
        Signer::open(
            &keys.signing_key(),
            certificate,
            "issuer".to_owned(),
            "service".to_owned(),
            300,
        )
    }

    #[test]
    fn a_token_has_the_claims_that_distribution_reads_and_is_signed_by_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::at(folder.path().to_owned());
        keys.create().unwrap();
        let signer = open(&keys, &keys.certificate()).unwrap();
        let access = [Access {
            kind: "repository",
            name: "hub/app".to_owned(),
            actions: vec!["pull"],
        }];
        let now = DateTime::from_timestamp(1_800_000_000, 999_000_000).unwrap();
        let token = signer.sign("ci", &access, now).unwrap();
        let parts: Vec<_> = token.split('.').collect();
        let read = |part: &str| -> Value {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
        };
        let (header, mut claims) = (read(parts[0]), read(parts[1]));
        assert_eq!(header["alg"], "ES256");
        assert_eq!(header["x5c"].as_array().unwrap().len(), 1);
        assert_eq!(claims["jti"].take().as_str().unwrap().len(), 32);
        assert_eq!(
            claims,
            json!({
                "iss": "issuer", "sub": "ci", "aud": "service", "exp": 1_800_000_300, "nbf": 1_799_999_995,
                "iat": 1_800_000_000, "jti": null,
                "access": [{ "type": "repository", "name": "hub/app", "actions": ["pull"] }]
            })
        );
        let signature = URL_SAFE_NO_PAD.decode(parts[2]).unwrap();
        let signature = Signature::from_slice(&signature).unwrap();
        let message = format!("{}.{}", parts[0], parts[1]);
        let public = signer.key.verifying_key();
        assert!(public.verify(message.as_bytes(), &signature).is_ok());
    }

    #[test]
    fn of_several_certificates_the_one_of_the_key_is_sent() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (
            KeyFolder::at(folder.path().join("old")),
            KeyFolder::at(folder.path().join("new")),
        );
        old.create().unwrap();
        new.create().unwrap();
        let error = open(&new, &old.certificate()).err().unwrap().to_string();
        assert!(
            error.contains("no certificate of the signing key"),
            "{error}"
        );
        let read = |keys: &KeyFolder| std::fs::read_to_string(keys.certificate()).unwrap();
        let bundle = folder.path().join("bundle.pem");
        std::fs::write(&bundle, read(&old) + &read(&new)).unwrap();
        let (alone, chosen) = (
            open(&new, &new.certificate()).unwrap(),
            open(&new, &bundle).unwrap(),
        );
        assert_eq!(alone.header, chosen.header);
    }

    #[test]
    fn an_invalid_key_is_reported_by_its_path_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::at(folder.path().to_owned());
        keys.create().unwrap();
        std::fs::write(keys.signing_key(), "hunter2").unwrap();
        let error = format!("{:#}", open(&keys, &keys.certificate()).err().unwrap());
        assert!(
            error.contains("signing-key.pem") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
