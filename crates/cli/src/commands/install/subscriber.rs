//! `sluice subscriber`: programs of others, each with a user and consumers of its own that read some events.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sluice_bus::Subscriber;
use sluice_bus::permissions::SYSTEM;
use sluice_gateway::KeyFolder;
use sluice_service::write_private_file;

use crate::arguments::connection::Connection;
use crate::output::{Format, line, note, show};

/// A subject of events: of a subscriber that is deleted only the name counts.
const ANY_SUBJECT: &str = "sluice.v1.image.>";

/// Manage programs that read some events and nothing else.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// The commands for subscribers.
#[derive(Debug, Subcommand)]
enum Command {
    /// Add a subscriber: a user at NATS with a password, and durable consumers of its subjects.
    #[command(
        after_help = "Examples:\n  sluice subscriber add deploys --subjects 'sluice.v1.image.promoted.>'\n  sluice subscriber add audit --subjects 'sluice.v1.image.>,sluice.v1.resource.>'"
    )]
    Add {
        /// Name: lower-case letters, digits and `-`.
        #[arg(value_parser = Subscriber::check_name)]
        name: String,
        /// Subjects of events that it may read, with commas between them.
        #[arg(long, required = true, value_delimiter = ',')]
        subjects: Vec<String>,
        #[command(flatten)]
        folders: Folders,
    },
    /// List subscribers, with the events that wait for each.
    #[command(after_help = "Example:\n  sluice subscriber list")]
    List {
        #[command(flatten)]
        keys: Keys,
        /// Output format.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Delete a subscriber: its user, its password and its consumers.
    #[command(after_help = "Example:\n  sluice subscriber delete deploys")]
    Delete {
        /// Name, as `list` shows it.
        #[arg(value_parser = Subscriber::check_name)]
        name: String,
        #[command(flatten)]
        folders: Folders,
    },
}

/// The folder with the names, subjects and passwords of subscribers.
#[derive(Debug, Args)]
struct Keys {
    /// Folder of keys [default: `keys` in the data folder].
    #[arg(long, value_name = "DIR", env = "SLUICE_KEYS")]
    keys: Option<PathBuf>,
}

/// The folders that a subscriber is written to.
#[derive(Debug, Args)]
struct Folders {
    #[command(flatten)]
    keys: Keys,
    /// Folder with the `accounts.conf` and `passwords.conf` of nats-server, which reads them again
    /// [default: `config` in the data folder of `sluice up`].
    #[arg(long, value_name = "DIR", env = "SLUICE_NATS_FILES")]
    nats_files: Option<PathBuf>,
}

impl Arguments {
    /// Adds, lists or deletes subscribers.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        match self.command {
            Command::Add {
                name,
                subjects,
                folders,
            } => {
                let subscriber = Subscriber::new(&name, subjects)?;
                add(&subscriber, &folders, connection).await
            }
            Command::List { keys, output } => list(&keys, connection, output).await,
            Command::Delete { name, folders } => delete(&name, &folders, connection).await,
        }
    }
}

impl Keys {
    fn folder(&self, connection: &Connection) -> PathBuf {
        let keys = self.keys.clone();
        keys.unwrap_or_else(|| connection.folder().join("keys"))
    }

    /// Returns the folder, which must have keys.
    fn existing(&self, connection: &Connection) -> anyhow::Result<KeyFolder> {
        let folder = self.folder(connection);
        let keys = KeyFolder::at(folder.clone());
        anyhow::ensure!(
            keys.nats_password(SYSTEM).exists(),
            "`{}` is not the folder of keys of an installation; name it with --keys",
            folder.display()
        );
        Ok(keys)
    }
}

impl Folders {
    /// Returns the folder of the files that nats-server includes, if they are on this machine.
    fn nats_files(&self, connection: &Connection) -> Option<PathBuf> {
        let of_up = || {
            let folder = connection.folder().join("config");
            let is_included = self.keys.keys.is_none() && folder.join("accounts.conf").exists();
            is_included.then_some(folder)
        };
        self.nats_files.clone().or_else(of_up)
    }

    /// Makes nats-server read the users and passwords again, or says how to.
    async fn update_server(
        &self,
        connection: &Connection,
        keys: &KeyFolder,
        order: FileOrder,
    ) -> anyhow::Result<()> {
        let Some(folder) = self.nats_files(connection) else {
            let keys = self.keys.folder(connection);
            note(&format!(
                "nats-server has the users of before; give each server the accounts in the output of \
                 `sluice nats-config --keys {0}` and the file `{0}/nats/passwords.conf`, and reload it twice",
                keys.display()
            ));
            return Ok(());
        };
        let [passwords, accounts] = keys.nats_files()?;
        let files = match order {
            FileOrder::PasswordsFirst => [passwords, accounts],
            FileOrder::AccountsFirst => [accounts, passwords],
        };
        for (name, text) in files {
            write_private_file(&folder.join(name), &text)?;
        }
        let system = connection.open_as(SYSTEM, keys.nats_password(SYSTEM));
        let servers = system.await?.reload_servers().await?;
        line(&format!("nats-server reloaded: {}", servers.join(", ")))
    }
}

/// The order in which the files of nats-server are written: at no moment does an account name a password that is not there,
/// with which the server would not start.
#[derive(Debug, Clone, Copy)]
enum FileOrder {
    PasswordsFirst,
    AccountsFirst,
}

async fn add(
    subscriber: &Subscriber,
    folders: &Folders,
    connection: &Connection,
) -> anyhow::Result<()> {
    let keys = folders.keys.existing(connection)?;
    let _locked = keys.lock_subscribers()?;
    let existing = keys.subscribers()?;
    if let Some(existing) = existing.iter().find(|one| one.name() == subscriber.name()) {
        anyhow::ensure!(
            existing == subscriber,
            "subscriber `{}` exists and reads `{}`; delete it first, or choose another name",
            existing.name(),
            existing.subjects().join("`, `")
        );
    }
    // The consumers first: without them the user could do nothing.
    let bus = connection.open().await?;
    let streams = bus.add_subscriber(subscriber).await?;
    keys.add_subscriber(subscriber)?;
    folders
        .update_server(connection, &keys, FileOrder::PasswordsFirst)
        .await?;
    let user = subscriber.user();
    line(&format!(
        "user `{user}` with the consumer `{user}` of {}; its password is in `{}`",
        streams.join(" and "),
        keys.nats_password(&user).display()
    ))
}

async fn list(keys: &Keys, connection: &Connection, format: Format) -> anyhow::Result<()> {
    let mut consumers = connection.open().await?.subscribers().await?;
    for subscriber in KeyFolder::at(keys.folder(connection)).subscribers()? {
        let status = consumers.entry(subscriber.name().to_owned()).or_default();
        if status.streams.is_empty() {
            let subjects = subscriber.subjects();
            status.subjects = subjects.to_vec();
            note(&format!(
                "subscriber `{0}` has no consumer; `sluice subscriber add {0} --subjects '{1}'` creates it",
                subscriber.name(),
                subjects.join(",")
            ));
        }
    }
    let (mut rows, mut objects) = (Vec::new(), Vec::new());
    for (name, status) in consumers {
        objects.push(json!({
            "name": name, "subjects": status.subjects, "streams": status.streams,
            "pending": status.pending, "unacknowledged": status.unacknowledged,
        }));
        rows.push(vec![
            name,
            status.subjects.join(", "),
            status.streams.join(", "),
            status.pending.to_string(),
            status.unacknowledged.to_string(),
        ]);
    }
    let header = ["NAME", "SUBJECTS", "STREAMS", "PENDING", "UNACKNOWLEDGED"];
    show(format, &header, rows, &Value::Array(objects))
}

async fn delete(name: &str, folders: &Folders, connection: &Connection) -> anyhow::Result<()> {
    let keys = folders.keys.existing(connection)?;
    let _locked = keys.lock_subscribers()?;
    let bus = connection.open().await?;
    let existing = keys.subscribers()?;
    let existed = existing.iter().any(|one| one.name() == name);
    // The user first: a connection of it ends. Also if its file is gone: an earlier attempt may not have reached the server.
    keys.remove_subscriber(&Subscriber::new(name, vec![ANY_SUBJECT.to_owned()])?)?;
    folders
        .update_server(connection, &keys, FileOrder::AccountsFirst)
        .await?;
    let had_consumers = bus.delete_subscriber(name).await?;
    anyhow::ensure!(
        existed || had_consumers,
        "subscriber `{name}` not found; `sluice subscriber list` shows those that exist"
    );
    line(&format!("subscriber `{name}` deleted"))
}
