//! The configuration of nats-server, generated from the permissions.
//!
//! Each service and each subscriber has an account of its own, which imports the subjects that it may use. One account with
//! a user per service would not be safe: the server does not check the reply subject of a request, so a user that may read
//! an entry could make the server write it into a bucket or stream of another service.

mod reload;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use super::permissions::{Grant, Permissions, SYSTEM, admin, services_and_subscribers};
use super::subscribers::Subscriber;
use crate::topology::{API, IMPORTED_API};

/// The account of streams and buckets.
const ACCOUNT: &str = "SLUICE";

/// The settings of a server besides the permissions.
#[derive(Debug, Clone, Copy)]
pub struct ServerConfig<'a> {
    /// The address it listens on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The folder of its streams.
    pub store: &'a Path,
    /// The folder to which it writes the address that it listens on.
    pub ports: Option<&'a Path>,
    /// Its certificate and key, PEM; without them connections are in plain text.
    pub tls: Option<(&'a Path, &'a Path)>,
}

impl ServerConfig<'_> {
    /// Returns the text of the configuration; `accounts` is that of [`render_accounts`], or includes a file with it.
    #[must_use]
    pub fn render(&self, accounts: &str) -> String {
        let port = match self.listen.port() {
            0 => -1,
            port => i32::from(port),
        };
        let mut lines = vec![
            "server_name: sluice".to_owned(),
            format!("host: \"{}\"", self.listen.ip()),
            format!("port: {port}"),
        ];
        if let Some(folder) = self.ports {
            lines.push(format!("ports_file_dir: {}", path(folder)));
        }
        if let Some((certificate, key)) = self.tls {
            lines.push("# Connections in plain text are refused.".to_owned());
            lines.push(format!(
                "tls {{ cert_file: {}, key_file: {} }}",
                path(certificate),
                path(key)
            ));
        }
        lines.extend([
            "# One node has no replicas, so a message is acknowledged only when it is on the disk."
                .to_owned(),
            "# Each stream has its own limit; the sum of the limits is not reserved on the disk."
                .to_owned(),
            format!(
                "jetstream {{ store_dir: {}, max_file_store: 1TB, sync_interval: always }}",
                path(self.store)
            ),
            accounts.to_owned(),
        ]);
        lines.join("\n")
    }
}

/// Returns the text of the accounts and users, which includes the file of the passwords beside it.
#[must_use]
pub fn render_accounts(passwords: &str, subscribers: &[Subscriber]) -> String {
    format!(
        "# The password of each user, made by `sluice keys`.\ninclude \"{passwords}\"\n{}",
        accounts(subscribers)
    )
}

/// Returns the text of the file of passwords, which the accounts include.
#[must_use]
pub fn render_passwords(passwords: &[(&str, &str)]) -> String {
    let line = |(user, password): &(&str, &str)| {
        format!("{}: {}\n", password_variable(user), quoted(password))
    };
    passwords.iter().map(line).collect()
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// Returns the name of the variable that holds the password of a user.
fn password_variable(user: &str) -> String {
    format!("PASSWORD_{}", account(user))
}

/// Returns the name of the account of a service or subscriber.
fn account(user: &str) -> String {
    user.to_uppercase().replace('-', "_")
}

/// Returns the subject to which the account of a service imports another.
fn imported_subject(subject: &str) -> String {
    match subject.strip_prefix(API) {
        Some(request) => format!("{IMPORTED_API}{request}"),
        None => subject.to_owned(),
    }
}

fn accounts(subscribers: &[Subscriber]) -> String {
    let all = services_and_subscribers(subscribers);
    let mut text = String::from("accounts {\n");
    text += &format!(
        "  SYSTEM: {{ users: [ {{ user: {SYSTEM}, password: ${} }} ] }}\n  {ACCOUNT}: {{\n    jetstream: enabled\n",
        password_variable(SYSTEM)
    );
    let admin_subjects: Vec<_> = admin()
        .publish
        .into_iter()
        .map(|grant| grant.subject)
        .collect();
    text += &user(&admin(), &admin_subjects);
    text += &exports(&all);
    text += "    imports: [\n";
    text += &progress_imports(&all);
    text += "    ]\n  }\n";
    for permissions in &all {
        text += &account_of(permissions, &all);
    }
    text += "}\nsystem_account: SYSTEM\n";
    text
}

/// Writes the exports to the accounts of services: each subject once, with the accounts that may use it.
fn exports(services: &[Permissions]) -> String {
    let mut exported: BTreeMap<&Grant, BTreeSet<String>> = BTreeMap::new();
    for permissions in services {
        for grant in &permissions.publish {
            exported
                .entry(grant)
                .or_default()
                .insert(account(&permissions.user));
        }
    }
    let mut text = String::from("    exports: [\n");
    for (grant, accounts) in exported {
        let response_type = if grant.streams_responses {
            " response_type: stream,"
        } else {
            ""
        };
        let accounts = accounts.into_iter().collect::<Vec<_>>().join(", ");
        writeln!(
            text,
            "      {{ service: \"{}\",{response_type} accounts: [{accounts}] }}",
            grant.subject
        )
        .ok();
    }
    for permissions in services {
        let (inbox, account) = (&permissions.subscribe, account(&permissions.user));
        writeln!(
            text,
            "      {{ stream: \"{inbox}\", accounts: [{account}] }}"
        )
        .ok();
    }
    text + "    ]\n"
}

/// Writes the imports of the progress messages of all services, each from the account of the service: a message that one
/// account imports cannot be exported again.
fn progress_imports(services: &[Permissions]) -> String {
    let mut text = String::new();
    for permissions in services {
        for subject in &permissions.publishes_progress {
            let account = account(&permissions.user);
            writeln!(
                text,
                "      {{ stream: {{ account: {account}, subject: \"{subject}\" }} }}"
            )
            .ok();
        }
    }
    text
}

/// Writes the exports of the progress messages of a service.
fn progress_exports(permissions: &Permissions, services: &[Permissions]) -> String {
    if permissions.publishes_progress.is_empty() {
        return String::new();
    }
    let readers = services.iter().filter(|other| other.reads_progress);
    let readers = readers.map(|other| account(&other.user));
    let readers: Vec<_> = readers.chain([ACCOUNT.to_owned()]).collect();
    let mut text = String::from("    exports: [\n");
    for subject in &permissions.publishes_progress {
        let readers = readers.join(", ");
        writeln!(
            text,
            "      {{ stream: \"{subject}\", accounts: [{readers}] }}"
        )
        .ok();
    }
    text + "    ]\n"
}

/// Writes the account of one service or subscriber.
fn account_of(permissions: &Permissions, all: &[Permissions]) -> String {
    let grants = permissions.publish.iter();
    let subjects: Vec<_> = grants
        .map(|grant| imported_subject(&grant.subject))
        .collect();
    let mut text = format!("  {}: {{\n", account(&permissions.user));
    text += &format!("    mappings: {{ \"{API}>\": \"{IMPORTED_API}>\" }}\n");
    let progress = &permissions.publishes_progress;
    let allowed: Vec<_> = subjects.iter().chain(progress).cloned().collect();
    text += &user(permissions, &allowed);
    text += &progress_exports(permissions, all);
    text += "    imports: [\n";
    if permissions.reads_progress {
        text += &progress_imports(all);
    }
    for (grant, local) in permissions.publish.iter().zip(&subjects) {
        let subject = &grant.subject;
        let to = if local == subject {
            String::new()
        } else {
            format!(", to: \"{local}\"")
        };
        writeln!(
            text,
            "      {{ service: {{ account: {ACCOUNT}, subject: \"{subject}\" }}{to} }}"
        )
        .ok();
    }
    writeln!(
        text,
        "      {{ stream: {{ account: {ACCOUNT}, subject: \"{}\" }} }}",
        permissions.subscribe
    )
    .ok();
    text + "    ]\n  }\n"
}

/// Writes the one user of an account.
fn user(permissions: &Permissions, publish: &[String]) -> String {
    let list = |subjects: &[String]| {
        let quoted: Vec<_> = subjects
            .iter()
            .map(|subject| format!("          \"{subject}\""))
            .collect();
        format!("[\n{}\n        ]", quoted.join("\n"))
    };
    let deny: Vec<_> = permissions
        .deny
        .iter()
        .map(|subject| imported_subject(subject))
        .collect();
    let deny = if deny.is_empty() {
        String::new()
    } else {
        format!("\n        deny: {}", list(&deny))
    };
    let subscribe = permissions.subscriptions().into_iter();
    let subscribe: Vec<_> = subscribe.map(|subject| format!("\"{subject}\"")).collect();
    format!(
        "    users: [\n      {{ user: {}, password: ${}, permissions: {{\n        publish: {{ allow: {}{deny} }}\n        \
         subscribe: {{ allow: [{}] }}\n      }} }}\n    ]\n",
        permissions.user,
        password_variable(&permissions.user),
        list(publish),
        subscribe.join(", ")
    )
}
