//! Writes the resources of an import as YAML documents and collects the warnings about them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use sluice_domain::resources::{Document, Resource};
use sluice_domain::{DurationText, RegistryHost};

use crate::Error;
use crate::selection::{Selection, matches_no_tag};

/// The longest name of a secret that is derived from a registry, in characters; a suffix such as `-cert` follows it.
const LONGEST_SECRET: usize = 50;
/// Words that YAML does not read as text.
const WORDS: [&str; 10] = [
    "true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan",
];

/// An entry without an equivalent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The line of the entry in the file.
    pub line: usize,
    /// What has no equivalent, and what to do instead.
    pub text: String,
}

/// The result of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversion {
    /// The resources as YAML documents, which `sluice apply` accepts.
    pub text: String,
    /// Entries without an equivalent, in the order of their lines.
    pub warnings: Vec<Warning>,
    /// Steps to do by hand, such as storing a password.
    pub notes: Vec<String>,
}

/// A `Registry` document: an account, a certificate, or a reserve of pulls.
#[derive(Debug, Clone, Default)]
pub(crate) struct RegistryDocument {
    pub(crate) username: Option<String>,
    pub(crate) plain_http: bool,
    pub(crate) ca: Option<String>,
    pub(crate) client_certificate: bool,
    pub(crate) reserve: Option<u32>,
}

/// A `Mirror` document.
#[derive(Debug, Clone, Default)]
pub(crate) struct MirrorDocument {
    pub(crate) line: usize,
    pub(crate) from: String,
    pub(crate) to: String,
    /// The registry of the destination, where the file names one.
    pub(crate) target: Option<RegistryHost>,
    pub(crate) tags: Selection,
    pub(crate) platforms: Vec<String>,
    pub(crate) every: Option<DurationText>,
}

/// Collects documents and warnings.
#[derive(Debug, Default)]
pub(crate) struct DocumentWriter {
    pub(crate) registries: BTreeMap<RegistryHost, RegistryDocument>,
    pub(crate) mirrors: Vec<MirrorDocument>,
    pub(crate) comments: Vec<String>,
    warnings: Vec<Warning>,
    notes: Vec<String>,
}

impl DocumentWriter {
    /// Adds a warning without control characters: the file may contain any, and warnings go to a terminal.
    pub(crate) fn warn(&mut self, line: usize, text: impl Into<String>) {
        let text: String = text.into();
        let text = text.chars().filter(|c| !c.is_control()).collect();
        self.warnings.push(Warning { line, text });
    }

    /// Returns the registries of the destinations.
    pub(crate) fn targets(&self) -> BTreeSet<RegistryHost> {
        let targets = self
            .mirrors
            .iter()
            .filter_map(|mirror| mirror.target.clone());
        targets.collect()
    }

    /// Writes the documents; each passes the checks of `sluice apply`.
    pub(crate) fn finish(mut self, name: &str, tool: &str) -> Result<Conversion, Error> {
        let mut text = String::new();
        let base = name.rsplit('/').next().unwrap_or(name);
        let base: String = base.chars().filter(|c| !c.is_control()).collect();
        let targets = self.targets();
        let target = match targets.len() {
            1 => targets.first().map(ToString::to_string),
            _ => None,
        };
        let target = target.unwrap_or_else(|| "REGISTRY".to_owned());
        line(&mut text, &format!("# Converted from `{base}` of {tool}."));
        line(
            &mut text,
            &format!("# Once:          sluice sync -f FILE --to {target}"),
        );
        line(&mut text, "# From now on:   sluice apply -f FILE");
        for comment in &self.comments {
            line(&mut text, &format!("# {comment}"));
        }
        for (host, registry) in &self.registries {
            let document = registry_text(host, registry, &mut self.notes);
            text.push_str(&document);
        }
        let mut names = BTreeSet::new();
        for mirror in std::mem::take(&mut self.mirrors) {
            let name = unique_name(&mirror.to, &mut names);
            let mut document = mirror_text(&name, &mirror, true);
            if targets.len() > 1
                && let Some(target) = &mirror.target
            {
                document = document.replacen("---\n", &format!("---\n# Goes to {target}.\n"), 1);
            }
            if !mirror.platforms.is_empty() && sluice_policy::check::load(&document).is_err() {
                self.warn(mirror.line, "unknown platform; all platforms are copied");
                document = mirror_text(&name, &mirror, false);
            }
            match sluice_policy::check::load(&document) {
                Ok(read) if read.iter().any(is_empty_mirror) => self.warn(
                    mirror.line,
                    "left out: the selected and the excluded tags leave no tag",
                ),
                Ok(_) => text.push_str(&document),
                Err(problems) => {
                    let reasons: Vec<_> = problems.into_iter().map(|p| p.message).collect();
                    self.warn(mirror.line, format!("left out: {}", reasons.join("; ")));
                }
            }
        }
        sluice_policy::check::load(&text).map_err(|problems| {
            let first = problems.first().map(|problem| problem.message.clone());
            let first = first.unwrap_or_default();
            Error::new(1, format!("no valid document can be written: {first}"))
        })?;
        self.warnings.sort_by_key(|warning| warning.line);
        Ok(Conversion {
            text,
            warnings: self.warnings,
            notes: self.notes,
        })
    }
}

/// Tells whether a document is a mirror whose selection matches no tag.
fn is_empty_mirror(document: &Document) -> bool {
    matches!(&document.resource, Resource::Mirror(mirror) if matches_no_tag(&mirror.tags))
}

fn line(text: &mut String, content: &str) {
    text.push_str(content);
    text.push('\n');
}

fn registry_text(
    host: &RegistryHost,
    registry: &RegistryDocument,
    notes: &mut Vec<String>,
) -> String {
    let (name, secret) = (registry_name(host), secret_name(host));
    let origin = if registry.plain_http {
        format!("http://{host}")
    } else {
        host.to_string()
    };
    let mut text = format!(
        "---\nkind: Registry\nname: {name}\nhost: {}\n",
        yaml(host.as_str())
    );
    if let Some(username) = &registry.username {
        key(&mut text, "username", &yaml(username));
        key(&mut text, "password", &secret_reference(&secret));
        notes.push(format!(
            "put the password or token of `{host}` into the file `{secret}` in the folder of secrets, and `{origin}` into `{secret}.hosts`; secrets are not copied"
        ));
    }
    if registry.plain_http {
        key(&mut text, "plain_http", "true");
    }
    if let Some(ca) = &registry.ca {
        key(&mut text, "ca", &secret_reference(ca));
    }
    if registry.client_certificate {
        let names = [format!("{secret}-cert"), format!("{secret}-key")];
        key(
            &mut text,
            "client_certificate",
            &secret_reference(&names[0]),
        );
        key(&mut text, "client_key", &secret_reference(&names[1]));
        notes.push(format!(
            "put the client certificate for `{host}` into `{0}` in the folder of secrets, its key into `{1}`, and `{origin}` into `{0}.hosts` and `{1}.hosts`",
            names[0], names[1]
        ));
    }
    if let Some(reserve) = registry.reserve {
        key(&mut text, "reserve", &reserve.to_string());
    }
    text
}

fn mirror_text(name: &str, mirror: &MirrorDocument, platforms: bool) -> String {
    let mut text = "---\n".to_owned();
    let (from, to) = (yaml(&mirror.from), yaml(&mirror.to));
    line(
        &mut text,
        &format!("kind: Mirror\nname: {name}\nfrom: {from}\nto: {to}"),
    );
    let tags = &mirror.tags;
    if *tags != Selection::default() {
        line(&mut text, "tags:");
        if let Some(range) = &tags.semver {
            key(&mut text, "  semver", &yaml(range));
        }
        let lists = [
            ("  include", &tags.include),
            ("  regex", &tags.regex),
            ("  exclude", &tags.exclude),
            ("  exclude_regex", &tags.exclude_regex),
        ];
        for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            key(&mut text, name, &yaml_list(list));
        }
    }
    if platforms && !mirror.platforms.is_empty() {
        key(&mut text, "platforms", &yaml_list(&mirror.platforms));
    }
    if let Some(every) = mirror.every {
        key(&mut text, "every", &every.to_string());
    }
    text
}

fn key(text: &mut String, key: &str, value: &str) {
    // Writing to a `String` never fails.
    writeln!(text, "{key}: {value}").ok();
}

/// Derives the name of a `Registry` resource from its host.
fn registry_name(host: &RegistryHost) -> String {
    if host.is_docker_hub() {
        return "docker-hub".to_owned();
    }
    host.as_str().replace(':', "-")
}

/// Derives the name of a secret from the registry that it is for.
pub(crate) fn secret_name(host: &RegistryHost) -> String {
    let plain = |c: char| if matches!(c, '.' | ':') { '-' } else { c };
    let name: String = registry_name(host)
        .chars()
        .map(plain)
        .take(LONGEST_SECRET)
        .collect();
    name.trim_matches(['-', '_']).to_owned()
}

/// Formats a reference to a secret.
fn secret_reference(secret: &str) -> String {
    format!("{{ secret: {secret} }}")
}

/// Derives the name of a mirror from its repository, with a number if another mirror has that name.
fn unique_name(repository: &str, names: &mut BTreeSet<String>) -> String {
    let base: String = repository.replace('/', "-").chars().take(120).collect();
    let mut name = base.clone();
    let mut number = 2;
    while !names.insert(name.clone()) {
        name = format!("{base}-{number}");
        number += 1;
    }
    name
}

fn yaml_list(list: &[String]) -> String {
    let items: Vec<_> = list.iter().map(|item| yaml(item)).collect();
    format!("[{}]", items.join(", "))
}

/// Quotes a text where YAML would read it as something else.
fn yaml(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '-');
    let is_word = WORDS.contains(&text.to_ascii_lowercase().as_str());
    if text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(plain)
        && !is_word
    {
        return text.to_owned();
    }
    if text.chars().any(char::is_control) {
        return serde_json::Value::from(text).to_string();
    }
    format!("'{}'", text.replace('\'', "''"))
}
