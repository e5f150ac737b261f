//! `sluice prepare`: the folders that the containers of a stack mount, each with what one container needs.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sluice_bus::ServerConfig;
use sluice_bus::permissions::{ADMIN, SYSTEM, users};
use sluice_domain::{is_service_account, service_accounts};
use sluice_embedded::RegistryConfig;
use sluice_gateway::{KeyFolder, NATS_ACCOUNTS_INCLUDE};
use sluice_service::{create_private_folder, secret_file, write_private_file};
use url::Url;

use crate::arguments::connection::Connection;
use crate::output::line;

/// The folder in which a container sees its own files.
const MOUNTED: &str = "/etc/sluice";
/// The listener of nats-server's monitoring, which its container alone reaches.
const MONITORING: &str = "http: \"127.0.0.1:8222\"\n";

/// Create the folders of a stack of containers: keys, passwords and server configurations, each container its own.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  sluice prepare /etc/sluice/stack --token-url https://registry.example/token"
)]
pub(crate) struct Arguments {
    /// Folder to fill: `keys` with everything, and one folder for each container, which mounts it at /etc/sluice.
    folder: PathBuf,
    /// URL of the token issuer, as clients of the registry reach it.
    #[arg(
        long,
        value_name = "URL",
        env = "SLUICE_TOKEN_URL",
        default_value = "http://127.0.0.1:8481/token"
    )]
    token_url: Url,
    /// URL of the gateway's receiver of notifications, as the registry reaches it.
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://gateway:8481/notifications"
    )]
    notifications_url: Url,
    /// Listen address of nats-server.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:4222")]
    nats_listen: SocketAddr,
    /// Folder of its streams.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/nats")]
    nats_store: PathBuf,
    /// Listen address of the registry.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:5000")]
    registry_listen: SocketAddr,
    /// Folder of its images.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/registry")]
    registry_storage: PathBuf,
}

impl Arguments {
    /// Creates what is missing, and updates what differs.
    pub(crate) fn run(self, _: &Connection) -> anyhow::Result<()> {
        for file in &self.update()? {
            line(&format!("{} written", file.display()))?;
        }
        line("all keys, passwords and configurations are up to date")
    }

    /// Writes what is missing or differs, and returns these files.
    fn update(&self) -> anyhow::Result<Vec<PathBuf>> {
        let keys = KeyFolder::at(self.folder.join("keys"));
        keys.create()?;
        let mut changed = Vec::new();
        for (container, files) in files(self, &keys)? {
            let folder = self.folder.join(container);
            for (name, text) in files {
                let file = folder.join(name);
                create_private_folder(file.parent().unwrap_or(&folder))?;
                if fs::read_to_string(&file).is_ok_and(|current| current == text) {
                    continue;
                }
                write_private_file(&file, &text)?;
                changed.push(file);
            }
        }
        Ok(changed)
    }
}

/// The files of one container: names and contents.
type Files = Vec<(String, String)>;

fn files(arguments: &Arguments, keys: &KeyFolder) -> anyhow::Result<Vec<(&'static str, Files)>> {
    let mut containers = vec![
        ("nats", nats(arguments, keys)?),
        ("registry", registry(arguments, keys)?),
    ];
    for user in users().into_iter().filter(|user| *user != SYSTEM) {
        let mut files = vec![("nats".to_owned(), read(&keys.nats_password(user))?)];
        if is_service_account(user) {
            files.push(("registry".to_owned(), read(&keys.password(user))?));
        }
        match user {
            "gateway" => files.extend(gateway(keys)?),
            ADMIN => files.push(("api-token".to_owned(), read(&keys.api_token())?)),
            _ => {}
        }
        containers.push((user, files));
    }
    Ok(containers)
}

fn nats(arguments: &Arguments, keys: &KeyFolder) -> anyhow::Result<Files> {
    let config = ServerConfig {
        listen: arguments.nats_listen,
        store: &arguments.nats_store,
        ports: None,
        tls: None,
    };
    let config = format!("{MONITORING}{}", config.render(NATS_ACCOUNTS_INCLUDE));
    let mut files = vec![("nats-server.conf".to_owned(), config)];
    let included = keys.nats_files()?;
    files.extend(included.map(|(name, text)| (name.to_owned(), text)));
    Ok(files)
}

fn registry(arguments: &Arguments, keys: &KeyFolder) -> anyhow::Result<Files> {
    let certificate = "certificate.pem";
    let http_secret = secret_file(&keys.registry_http())?;
    let notifications_secret = secret_file(&keys.notifications())?;
    let config = RegistryConfig {
        listen: arguments.registry_listen,
        storage: &arguments.registry_storage,
        token_url: arguments.token_url.as_str(),
        notifications_url: arguments.notifications_url.as_str(),
        certificate: &Path::new(MOUNTED).join(certificate),
        http_secret: &http_secret,
        notifications_secret: &notifications_secret,
    };
    Ok(vec![
        ("registry.yml".to_owned(), config.render().to_string()),
        (certificate.to_owned(), read(&keys.certificate())?),
    ])
}

/// Returns what the gateway has besides its own passwords: it issues the tokens of all accounts.
fn gateway(keys: &KeyFolder) -> anyhow::Result<Files> {
    let mut files = vec![
        ("signing-key.pem".to_owned(), read(&keys.signing_key())?),
        ("certificate.pem".to_owned(), read(&keys.certificate())?),
        ("notifications".to_owned(), read(&keys.notifications())?),
        ("api-token".to_owned(), read(&keys.api_token())?),
    ];
    for account in service_accounts() {
        let password = read(&keys.password(account))?;
        files.push((format!("accounts/{account}"), password));
    }
    Ok(files)
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("failed to read `{}`", file.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(folder: &Path, options: &[&str]) -> Arguments {
        let folder = folder.to_str().unwrap();
        Command::parse_from([&["prepare", folder], options].concat()).arguments
    }

    /// Returns the contents of all files by their path.
    fn contents(folder: &Path) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = path.strip_prefix(folder).unwrap().display().to_string();
                    found.insert(name, fs::read_to_string(&path).unwrap());
                }
            }
        }
        found
    }

    #[test]
    fn each_container_gets_its_own_passwords_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        arguments(folder.path(), &[]).update().unwrap();
        let files = contents(folder.path());
        for service in ["poller", "webhook-dispatcher"] {
            let own: Vec<_> = files
                .keys()
                .filter(|name| name.starts_with(&format!("{service}/")))
                .collect();
            assert_eq!(own, [&format!("{service}/nats")]);
        }
        for service in ["mirror-worker", "promoter", "pruner", "scanner-adapter"] {
            let password = &files[&format!("keys/accounts/{service}")];
            assert_eq!(&files[&format!("{service}/registry")], password);
            let places = files.iter().filter(|(_, text)| *text == password);
            let names: Vec<_> = places
                .map(|(name, _)| name.split('/').next().unwrap())
                .collect();
            assert_eq!(names, ["gateway", "keys", service]);
            assert!(files["nats/passwords.conf"].contains(&files[&format!("{service}/nats")]));
        }
        let key = &files["keys/signing-key.pem"];
        let places = files.iter().filter(|(_, text)| *text == key);
        let names: Vec<_> = places.map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["gateway/signing-key.pem", "keys/signing-key.pem"]);
    }

    #[test]
    fn a_second_run_changes_only_what_the_options_change() {
        let folder = tempfile::tempdir().unwrap();
        arguments(folder.path(), &[]).update().unwrap();
        let before = contents(folder.path());
        arguments(folder.path(), &[]).update().unwrap();
        assert!(
            before == contents(folder.path()),
            "a second run changed a file"
        );
        let url = "https://registry.example/token";
        arguments(folder.path(), &["--token-url", url])
            .update()
            .unwrap();
        let after = contents(folder.path());
        let changed: Vec<_> = after
            .iter()
            .filter(|(name, text)| before[*name] != **text)
            .collect();
        assert_eq!(changed.len(), 1);
        assert!(after["registry/registry.yml"].contains(url));
    }

    #[test]
    fn a_password_that_was_removed_is_replaced_everywhere() {
        let folder = tempfile::tempdir().unwrap();
        arguments(folder.path(), &[]).update().unwrap();
        let before = contents(folder.path());
        fs::remove_file(folder.path().join("keys/nats/poller")).unwrap();
        arguments(folder.path(), &[]).update().unwrap();
        let after = contents(folder.path());
        let password = &after["poller/nats"];
        assert_ne!(*password, before["poller/nats"]);
        assert!(after["nats/passwords.conf"].contains(password));
    }
}
