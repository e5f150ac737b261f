//! The folder of keys of an installation: signing key and certificate of the token issuer, passwords of the services at
//! the registry and at NATS, secret of the notifications, token of the REST API. Missing files are created.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::{DateTime, Datelike as _, TimeDelta, Utc};
use rcgen::{CertificateParams, DnType, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256};
use secrecy::ExposeSecret as _;
use sluice_bus::Subscriber;
use sluice_bus::permissions::users;
use sluice_domain::service_accounts;
use sluice_service::{create_private_folder, secret_file, write_private_file};

/// How long the certificate is valid. The registry reads it at its start only, so a renewal needs a restart.
const VALID_DAYS: i64 = 3_650;

/// The name of the file with the NATS passwords, which the accounts include.
pub const NATS_PASSWORDS_FILE: &str = "passwords.conf";
/// The line by which the configuration of nats-server includes the file of accounts and users.
pub const NATS_ACCOUNTS_INCLUDE: &str = "include \"accounts.conf\"\n";
/// The name of that file.
const NATS_ACCOUNTS_FILE: &str = "accounts.conf";

/// The folder of keys and its files.
#[derive(Debug, Clone)]
pub struct KeyFolder {
    folder: PathBuf,
}

impl KeyFolder {
    /// Names the folder; nothing is read or created.
    #[must_use]
    pub const fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Creates the folder and every missing file; returns the files that were created.
    pub fn create(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut created = Vec::new();
        for folder in [
            self.folder.clone(),
            self.accounts(),
            self.nats(),
            self.subscriber_folder(),
        ] {
            create_private_folder(&folder)?;
        }
        self.create_signing_key(&mut created)?;
        let accounts = service_accounts().map(|account| self.password(account));
        let users = self.users()?;
        let users = users.iter().map(|user| self.nats_password(user));
        for file in accounts
            .into_iter()
            .chain([self.notifications(), self.registry_http(), self.api_token()])
            .chain(users)
        {
            if !exists(&file)? {
                write_private_file(&file, &new_secret())?;
                created.push(file);
            }
        }
        self.write_nats_passwords(&mut created)?;
        Ok(created)
    }

    /// Writes the passwords into the file that nats-server reads, if one was created or changed.
    fn write_nats_passwords(&self, created: &mut Vec<PathBuf>) -> anyhow::Result<()> {
        let mut passwords = Vec::new();
        for user in self.users()? {
            let password = secret_file(&self.nats_password(&user))?;
            passwords.push((user, password));
        }
        let passwords: Vec<_> = passwords
            .iter()
            .map(|(user, password)| (user.as_str(), password.expose_secret()))
            .collect();
        let (file, text) = (
            self.nats_passwords(),
            sluice_bus::render_passwords(&passwords),
        );
        if fs::read_to_string(&file).is_ok_and(|current| current == text) {
            return Ok(());
        }
        write_private_file(&file, &text)?;
        created.push(file);
        Ok(())
    }

    /// Returns every user at NATS: those of the services, and the subscribers.
    fn users(&self) -> anyhow::Result<Vec<String>> {
        let subscribers = self.subscribers()?;
        let users = users().into_iter().map(ToOwned::to_owned);
        Ok(users
            .chain(subscribers.iter().map(Subscriber::user))
            .collect())
    }

    /// Returns the subscribers, by name.
    pub fn subscribers(&self) -> anyhow::Result<Vec<Subscriber>> {
        let folder = self.subscriber_folder();
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("failed to read `{}`", folder.display()))?,
        };
        let mut subscribers = Vec::new();
        for entry in entries {
            let file = entry?.path();
            // One that was being written when the process died.
            if file.extension().is_some() {
                continue;
            }
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let text = fs::read_to_string(&file)
                .with_context(|| format!("failed to read `{}`", file.display()))?;
            let subjects = text.lines().map(ToOwned::to_owned).collect();
            let subscriber = Subscriber::new(&name, subjects);
            let subscriber = subscriber.with_context(|| format!("in `{}`", file.display()))?;
            subscribers.push(subscriber);
        }
        subscribers.sort_by(|one, other| one.name().cmp(other.name()));
        Ok(subscribers)
    }

    /// Waits until no other process changes subscribers, and keeps others waiting until the file is dropped.
    pub fn lock_subscribers(&self) -> anyhow::Result<File> {
        let folder = self.subscriber_folder();
        create_private_folder(&folder)?;
        let locked = File::open(&folder).and_then(|file| file.lock().map(|()| file));
        locked.with_context(|| format!("failed to lock `{}`", folder.display()))
    }

    /// Adds a subscriber, with a password; one that exists keeps its password.
    pub fn add_subscriber(&self, subscriber: &Subscriber) -> anyhow::Result<()> {
        create_private_folder(&self.subscriber_folder())?;
        let file = self.subscriber_folder().join(subscriber.name());
        write_private_file(&file, &(subscriber.subjects().join("\n") + "\n"))?;
        self.create().map(drop)
    }

    /// Removes a subscriber and its password.
    pub fn remove_subscriber(&self, subscriber: &Subscriber) -> anyhow::Result<()> {
        for file in [
            self.subscriber_folder().join(subscriber.name()),
            self.nats_password(&subscriber.user()),
        ] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
            .with_context(|| format!("failed to remove `{}`", file.display()))?;
        }
        self.create().map(drop)
    }

    /// Returns the name and text of each file that the configuration of nats-server includes: accounts, and passwords.
    pub fn nats_files(&self) -> anyhow::Result<[(&'static str, String); 2]> {
        let passwords = fs::read_to_string(self.nats_passwords())
            .with_context(|| format!("failed to read `{}`", self.nats_passwords().display()))?;
        let accounts = sluice_bus::render_accounts(NATS_PASSWORDS_FILE, &self.subscribers()?);
        Ok([
            (NATS_PASSWORDS_FILE, passwords),
            (NATS_ACCOUNTS_FILE, accounts),
        ])
    }

    fn create_signing_key(&self, created: &mut Vec<PathBuf>) -> anyhow::Result<()> {
        let (key_file, certificate_file) = (self.signing_key(), self.certificate());
        let key = if exists(&key_file)? {
            if exists(&certificate_file)? {
                return Ok(());
            }
            let pem = fs::read_to_string(&key_file)
                .with_context(|| format!("failed to read `{}`", key_file.display()))?;
            KeyPair::from_pem(&pem)
                .with_context(|| format!("`{}` holds no private key", key_file.display()))?
        } else {
            anyhow::ensure!(
                !exists(&certificate_file)?,
                "`{}` exists and its key does not; restore `{}`, or delete the certificate to create both",
                certificate_file.display(),
                key_file.display()
            );
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
                .context("failed to create a signing key")?;
            write_private_file(&key_file, &key.serialize_pem())?;
            created.push(key_file);
            key
        };
        write_private_file(&certificate_file, &certificate(&key, Utc::now())?)?;
        created.push(certificate_file);
        Ok(())
    }

    /// Returns the private key that tokens are signed with.
    #[must_use]
    pub fn signing_key(&self) -> PathBuf {
        self.folder.join("signing-key.pem")
    }

    /// Returns the certificate that the registry trusts.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("certificate.pem")
    }

    /// Returns the folder with the passwords of the service accounts.
    #[must_use]
    pub fn accounts(&self) -> PathBuf {
        self.folder.join("accounts")
    }

    /// Returns the password of a service account.
    #[must_use]
    pub fn password(&self, account: &str) -> PathBuf {
        self.accounts().join(account)
    }

    /// Returns the folder with the passwords of the users at NATS.
    #[must_use]
    pub fn nats(&self) -> PathBuf {
        self.folder.join("nats")
    }

    /// Returns the password of a user at NATS.
    #[must_use]
    pub fn nats_password(&self, user: &str) -> PathBuf {
        self.nats().join(user)
    }

    /// Returns the folder with a file for each subscriber, which has its subjects.
    fn subscriber_folder(&self) -> PathBuf {
        self.folder.join("subscribers")
    }

    /// Returns the file with all these passwords, which the accounts include.
    #[must_use]
    pub fn nats_passwords(&self) -> PathBuf {
        self.nats().join(NATS_PASSWORDS_FILE)
    }

    /// Returns the token that every caller of the REST API sends.
    #[must_use]
    pub fn api_token(&self) -> PathBuf {
        self.folder.join("api-token")
    }

    /// Returns the secret that the registry signs the state of uploads with.
    #[must_use]
    pub fn registry_http(&self) -> PathBuf {
        self.folder.join("registry-http")
    }

    /// Returns the secret of the registry's notifications.
    #[must_use]
    pub fn notifications(&self) -> PathBuf {
        self.folder.join("notifications")
    }
}

/// Creates the self-signed certificate of a key.
fn certificate(key: &KeyPair, now: DateTime<Utc>) -> anyhow::Result<String> {
    let date = |at: DateTime<Utc>| {
        let (month, day) = (u8::try_from(at.month())?, u8::try_from(at.day())?);
        anyhow::Ok(rcgen::date_time_ymd(at.year(), month, day))
    };
    let mut parameters = CertificateParams::default();
    parameters
        .distinguished_name
        .push(DnType::CommonName, "Sluice token issuer");
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // A day back, for a registry whose clock is behind.
    parameters.not_before = date(now - TimeDelta::days(1))?;
    parameters.not_after = date(now + TimeDelta::days(VALID_DAYS))?;
    let certificate = parameters
        .self_signed(key)
        .context("failed to create the certificate of the signing key")?;
    Ok(certificate.pem())
}

/// Returns 244 random bits of the system, as hexadecimal digits.
fn new_secret() -> String {
    format!(
        "{}{}",
        uuid::Uuid::new_v4().simple(),
        uuid::Uuid::new_v4().simple()
    )
}

fn exists(file: &Path) -> anyhow::Result<bool> {
    file.try_exists()
        .with_context(|| format!("failed to access `{}`", file.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn everything_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::at(folder.path().join("deep/keys"));
        let created = keys.create().unwrap();
        assert_eq!(
            created.len(),
            service_accounts().count() + 5 + users().len() + 1
        );
        let before: Vec<_> = created.iter().map(|file| fs::read(file).unwrap()).collect();
        for file in &created {
            assert_eq!(mode(file), 0o600, "{}", file.display());
        }
        assert_eq!(mode(&keys.accounts()), 0o700);
        assert_eq!(mode(keys.accounts().parent().unwrap()), 0o700);
        assert_eq!(keys.create().unwrap(), Vec::<PathBuf>::new());
        let after: Vec<_> = created.iter().map(|file| fs::read(file).unwrap()).collect();
        assert!(before == after, "a second run changed a file");
    }

    #[test]
    fn only_what_is_missing_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::at(folder.path().to_owned());
        keys.create().unwrap();
        let key = fs::read(keys.signing_key()).unwrap();
        let missing = [keys.certificate(), keys.password("promoter")];
        for file in &missing {
            fs::remove_file(file).unwrap();
        }
        assert_eq!(keys.create().unwrap(), missing);
        assert!(key == fs::read(keys.signing_key()).unwrap());
    }

    #[test]
    fn the_server_gets_the_passwords_that_the_services_have() {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::at(folder.path().to_owned());
        keys.create().unwrap();
        let changed = keys.nats_password("mirror-worker");
        fs::write(&changed, "another\n").unwrap();
        assert_eq!(keys.create().unwrap(), [keys.nats_passwords()]);
        let text = fs::read_to_string(keys.nats_passwords()).unwrap();
        assert!(text.contains("PASSWORD_MIRROR_WORKER: \"another\"\n"));
        for user in users() {
            let password = fs::read_to_string(keys.nats_password(user)).unwrap();
            assert!(text.contains(password.trim()), "{user}");
        }
    }

    #[test]
    fn a_subscriber_has_a_password_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::at(folder.path().to_owned());
        keys.create().unwrap();
        let subjects = ["sluice.v1.image.>", "sluice.v1.scan.>"].map(ToOwned::to_owned);
        let own = Subscriber::new("own", subjects.to_vec()).unwrap();
        let other = Subscriber::new("other", subjects.to_vec()).unwrap();
        for subscriber in [&own, &other, &own] {
            keys.add_subscriber(subscriber).unwrap();
        }
        assert_eq!(keys.subscribers().unwrap(), [other.clone(), own.clone()]);
        let file = keys.nats_password("subscriber-own");
        assert_eq!(mode(&file), 0o600);
        let password = fs::read_to_string(&file).unwrap();
        let [(_, passwords), (_, accounts)] = keys.nats_files().unwrap();
        assert!(passwords.contains(&format!("PASSWORD_SUBSCRIBER_OWN: \"{password}\"\n")));
        assert!(accounts.contains("$PASSWORD_SUBSCRIBER_OWN"));
        assert!(!accounts.contains(&password));

        keys.remove_subscriber(&own).unwrap();
        assert_eq!(keys.subscribers().unwrap(), [other]);
        assert!(!file.exists());
        let files = keys.nats_files().unwrap();
        assert!(
            files
                .iter()
                .all(|(_, text)| !text.contains("SUBSCRIBER_OWN"))
        );
    }

    #[test]
    fn a_certificate_without_its_key_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::at(folder.path().to_owned());
        keys.create().unwrap();
        fs::remove_file(keys.signing_key()).unwrap();
        let error = keys.create().unwrap_err().to_string();
        assert!(error.contains("certificate.pem"), "{error}");
        assert!(!keys.signing_key().exists());
    }

    #[test]
    fn no_two_secrets_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let keys = KeyFolder::at(folder.path().to_owned());
        keys.create().unwrap();
        let mut secrets: Vec<_> = service_accounts()
            .map(|account| fs::read_to_string(keys.password(account)).unwrap())
            .collect();
        for file in [keys.notifications(), keys.registry_http(), keys.api_token()] {
            secrets.push(fs::read_to_string(file).unwrap());
        }
        let users = users();
        let of_nats = users.iter().map(|user| keys.nats_password(user));
        secrets.extend(of_nats.map(|file| fs::read_to_string(file).unwrap()));
        assert!(secrets.iter().all(|secret| secret.len() == 64));
        secrets.sort();
        secrets.dedup();
        assert_eq!(secrets.len(), service_accounts().count() + 3 + users.len());
    }
}
