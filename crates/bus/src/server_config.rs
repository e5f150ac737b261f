//! The configuration of nats-server, written from the permissions so that it cannot drift from them.
//!
//! Each service has an account of its own and reaches what it may through imports. One account with a user per service
//! would not do: nobody checks where the answer to a request is sent, so whoever may read one entry could have the
//! server write it into the bucket or the log of another.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use crate::permissions::{API, Grant, PROGRESS, Rights, SYSTEM, admin, services};

/// The account of streams and buckets.
const ACCOUNT: &str = "SLUICE";
/// Where requests to JetStream go in the account of a service, which has no JetStream to answer them itself.
pub(crate) const IMPORTED_API: &str = "sluice.api.";

/// What a server is told besides who may do what.
#[derive(Debug, Clone, Copy)]
pub struct ServerConfig<'a> {
    /// Where it listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where it keeps its streams.
    pub store: &'a Path,
    /// The folder where it writes down the address that it took.
    pub ports: Option<&'a Path>,
    /// Its certificate and its key, PEM; without them it speaks plain text.
    pub tls: Option<(&'a Path, &'a Path)>,
    /// The file with the passwords, beside the configuration.
    pub passwords: &'a str,
}

impl ServerConfig<'_> {
    /// Writes the configuration.
    #[must_use]
    pub fn text(&self) -> String {
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
            lines.push("# Nobody is spoken to in plain text.".to_owned());
            lines.push(format!(
                "tls {{ cert_file: {}, key_file: {} }}",
                path(certificate),
                path(key)
            ));
        }
        lines.extend([
            "# One node has no replica to fall back on: an acknowledgement must mean that it is on the disk.".to_owned(),
            "# Each stream has a limit of its own; what they may take together is not reserved on the disk.".to_owned(),
            format!(
                "jetstream {{ store_dir: {}, max_file_store: 1TB, sync_interval: always }}",
                path(self.store)
            ),
            "# A password of its own for each user, made by `sluice keys`.".to_owned(),
            format!("include \"{}\"", self.passwords),
            String::new(),
        ]);
        lines.join("\n") + &accounts()
    }
}

/// Writes the passwords as the configuration includes them.
#[must_use]
pub fn passwords(of: &[(&str, &str)]) -> String {
    let line =
        |(user, password): &(&str, &str)| format!("{}: {}\n", variable(user), quoted(password));
    of.iter().map(line).collect()
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// Returns the name of the variable that holds the password of a user.
fn variable(user: &str) -> String {
    format!("PASSWORD_{}", account(user))
}

/// Returns the name of the account of a service.
fn account(user: &str) -> String {
    user.to_uppercase().replace('-', "_")
}

/// Returns the subject on which the account of a service knows what it imports.
fn imported(subject: &str) -> String {
    match subject.strip_prefix(API) {
        Some(request) => format!("{IMPORTED_API}{request}"),
        None => subject.to_owned(),
    }
}

fn accounts() -> String {
    let services = services();
    let mut text = String::from("accounts {\n");
    text += &format!(
        "  SYSTEM: {{ users: [ {{ user: {SYSTEM}, password: ${} }} ] }}\n  {ACCOUNT}: {{\n    jetstream: enabled\n",
        variable(SYSTEM)
    );
    let whole: Vec<_> = admin()
        .publish
        .into_iter()
        .map(|grant| grant.subject)
        .collect();
    text += &user(&admin(), &whole);
    text += &exports(&services);
    text += "    imports: [\n";
    text += &heard(&services);
    text += "    ]\n  }\n";
    for rights in &services {
        text += &service(rights, &services);
    }
    text += "}\nsystem_account: SYSTEM\n";
    text
}

/// Writes what the accounts of services may reach, each subject once with the accounts that may.
fn exports(services: &[Rights]) -> String {
    let mut exported: BTreeMap<&Grant, BTreeSet<String>> = BTreeMap::new();
    for rights in services {
        for grant in &rights.publish {
            exported
                .entry(grant)
                .or_default()
                .insert(account(rights.user));
        }
    }
    let mut text = String::from("    exports: [\n");
    for (grant, accounts) in exported {
        let many = if grant.many {
            " response_type: stream,"
        } else {
            ""
        };
        let accounts = accounts.into_iter().collect::<Vec<_>>().join(", ");
        writeln!(
            text,
            "      {{ service: \"{}\",{many} accounts: [{accounts}] }}",
            grant.subject
        )
        .ok();
    }
    for rights in services {
        let (inbox, account) = (&rights.subscribe, account(rights.user));
        writeln!(
            text,
            "      {{ stream: \"{inbox}\", accounts: [{account}] }}"
        )
        .ok();
    }
    text + "    ]\n"
}

/// Writes where what services tell of their work is heard from: a message that was let into an account to be stored or
/// answered is not let out of it again.
fn heard(services: &[Rights]) -> String {
    let mut text = String::new();
    for rights in services {
        for subject in &rights.tells {
            let account = account(rights.user);
            writeln!(
                text,
                "      {{ stream: {{ account: {account}, subject: \"{subject}\" }} }}"
            )
            .ok();
        }
    }
    text
}

/// Writes what a service lets others hear.
fn told(rights: &Rights, services: &[Rights]) -> String {
    if rights.tells.is_empty() {
        return String::new();
    }
    let hearers = services.iter().filter(|other| other.hears);
    let hearers = hearers.map(|other| account(other.user));
    let hearers: Vec<_> = hearers.chain([ACCOUNT.to_owned()]).collect();
    let mut text = String::from("    exports: [\n");
    for subject in &rights.tells {
        let hearers = hearers.join(", ");
        writeln!(
            text,
            "      {{ stream: \"{subject}\", accounts: [{hearers}] }}"
        )
        .ok();
    }
    text + "    ]\n"
}

/// Writes the account of one service.
fn service(rights: &Rights, services: &[Rights]) -> String {
    let subjects: Vec<_> = rights
        .publish
        .iter()
        .map(|grant| imported(&grant.subject))
        .collect();
    let mut text = format!("  {}: {{\n", account(rights.user));
    text += &format!("    mappings: {{ \"{API}>\": \"{IMPORTED_API}>\" }}\n");
    let allowed: Vec<_> = subjects.iter().chain(&rights.tells).cloned().collect();
    text += &user(rights, &allowed);
    text += &told(rights, services);
    text += "    imports: [\n";
    if rights.hears {
        text += &heard(services);
    }
    for (grant, local) in rights.publish.iter().zip(&subjects) {
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
        rights.subscribe
    )
    .ok();
    text + "    ]\n  }\n"
}

fn user(rights: &Rights, publish: &[String]) -> String {
    let list = |subjects: &[String]| {
        let quoted: Vec<_> = subjects
            .iter()
            .map(|subject| format!("          \"{subject}\""))
            .collect();
        format!("[\n{}\n        ]", quoted.join("\n"))
    };
    let deny: Vec<_> = rights
        .deny
        .iter()
        .map(|subject| imported(subject))
        .collect();
    let deny = if deny.is_empty() {
        String::new()
    } else {
        format!("\n        deny: {}", list(&deny))
    };
    let progress = rights.hears.then(|| format!("{PROGRESS}>"));
    let hears = [rights.subscribe.clone()].into_iter().chain(progress);
    let hears: Vec<_> = hears.map(|subject| format!("\"{subject}\"")).collect();
    format!(
        "    users: [\n      {{ user: {}, password: ${}, permissions: {{\n        publish: {{ allow: {}{deny} }}\n        \
         subscribe: {{ allow: [{}] }}\n      }} }}\n    ]\n",
        rights.user,
        variable(rights.user),
        list(publish),
        hears.join(", ")
    )
}
