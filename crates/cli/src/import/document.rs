//! Writes the documents that an import makes, and keeps what is to be said of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use sluice_domain::resources::{Document, Resource};
use sluice_domain::{DurationText, RegistryHost};

use super::filter::{Selection, takes_nothing};

/// The longest name of a secret that is made of a registry's, in characters; what tells its files apart comes after it.
const LONGEST_SECRET: usize = 50;
/// Words that YAML reads as something else than text.
const WORDS: [&str; 10] = [
    "true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan",
];

/// Something without an equivalent, at a line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Warning {
    pub(crate) line: usize,
    pub(crate) text: String,
}

/// What an import made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    /// The documents.
    pub(crate) text: String,
    /// What has no equivalent.
    pub(crate) warnings: Vec<Warning>,
    /// What is to be done by hand.
    pub(crate) notes: Vec<String>,
}

/// A registry of which the file says more than its name.
#[derive(Debug, Clone, Default)]
pub(crate) struct RegistryDocument {
    pub(crate) username: Option<String>,
    pub(crate) plain_http: bool,
    pub(crate) ca: Option<String>,
    pub(crate) client_certificate: bool,
    pub(crate) reserve: Option<u32>,
}

/// A repository to copy from.
#[derive(Debug, Clone, Default)]
pub(crate) struct MirrorDocument {
    pub(crate) line: usize,
    pub(crate) from: String,
    pub(crate) to: String,
    /// The registry that it goes to, where the file names one.
    pub(crate) target: Option<RegistryHost>,
    pub(crate) tags: Selection,
    pub(crate) platforms: Vec<String>,
    pub(crate) every: Option<DurationText>,
}

/// Collects documents.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) registries: BTreeMap<RegistryHost, RegistryDocument>,
    pub(crate) mirrors: Vec<MirrorDocument>,
    pub(crate) comments: Vec<String>,
    warnings: Vec<Warning>,
    notes: Vec<String>,
}

impl Writer {
    /// Tells that something has no equivalent.
    pub(crate) fn warn(&mut self, line: usize, text: impl Into<String>) {
        // A file may hold anything, and this goes to a terminal.
        let text: String = text.into();
        let text = text.chars().filter(|c| !c.is_control()).collect();
        self.warnings.push(Warning { line, text });
    }

    /// Returns the registries that mirrors go to.
    pub(crate) fn targets(&self) -> BTreeSet<RegistryHost> {
        let targets = self
            .mirrors
            .iter()
            .filter_map(|mirror| mirror.target.clone());
        targets.collect()
    }

    /// Writes the documents; each is checked as `sluice apply` would.
    pub(crate) fn finish(mut self, name: &str, tool: &str) -> Result<Made, String> {
        let mut text = String::new();
        let base = name.rsplit('/').next().unwrap_or(name);
        let base: String = base.chars().filter(|c| !c.is_control()).collect();
        let targets = self.targets();
        let target = match targets.len() {
            1 => targets.first().map(ToString::to_string),
            _ => None,
        };
        let target = target.unwrap_or_else(|| "REGISTRY".to_owned());
        line(&mut text, &format!("# What `{base}` says to {tool}."));
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
            let name = free_name(&mirror.to, &mut names);
            let mut document = mirror_text(&name, &mirror, true);
            if targets.len() > 1
                && let Some(target) = &mirror.target
            {
                document = document.replacen("---\n", &format!("---\n# Goes to {target}.\n"), 1);
            }
            if !mirror.platforms.is_empty() && sluice_policy::check::load(&document).is_err() {
                self.warn(
                    mirror.line,
                    "the choice of platforms is not understood and left out, so that all of them are copied",
                );
                document = mirror_text(&name, &mirror, false);
            }
            match sluice_policy::check::load(&document) {
                Ok(read) if read.iter().any(is_idle) => self.warn(
                    mirror.line,
                    "it is left out: what it selects and what it excludes leave no tag",
                ),
                Ok(_) => text.push_str(&document),
                Err(problems) => {
                    let told: Vec<_> = problems.into_iter().map(|p| p.message).collect();
                    self.warn(mirror.line, format!("it is left out: {}", told.join("; ")));
                }
            }
        }
        sluice_policy::check::load(&text).map_err(|problems| {
            let first = problems.first().map(|problem| problem.message.clone());
            format!(
                "line 1: nothing can be written: {}",
                first.unwrap_or_default()
            )
        })?;
        self.warnings.sort_by_key(|warning| warning.line);
        Ok(Made {
            text,
            warnings: self.warnings,
            notes: self.notes,
        })
    }
}

/// Says whether a document is a mirror that takes no tag.
fn is_idle(document: &Document) -> bool {
    matches!(&document.resource, Resource::Mirror(mirror) if takes_nothing(&mirror.tags))
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
        key(&mut text, "password", &named(&secret));
        notes.push(format!(
            "put the password or token of `{host}` into the file `{secret}` in the folder of secrets, and `{origin}` into `{secret}.hosts`; secrets are not copied"
        ));
    }
    if registry.plain_http {
        key(&mut text, "plain_http", "true");
    }
    if let Some(ca) = &registry.ca {
        key(&mut text, "ca", &named(ca));
    }
    if registry.client_certificate {
        let names = [format!("{secret}-cert"), format!("{secret}-key")];
        key(&mut text, "client_certificate", &named(&names[0]));
        key(&mut text, "client_key", &named(&names[1]));
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
    // To write to a text never fails.
    writeln!(text, "{key}: {value}").ok();
}

/// Names a registry after its host.
fn registry_name(host: &RegistryHost) -> String {
    if host.is_docker_hub() {
        return "docker-hub".to_owned();
    }
    host.as_str().replace(':', "-")
}

/// Names a secret after the registry that it is for.
pub(crate) fn secret_name(host: &RegistryHost) -> String {
    let plain = |c: char| if matches!(c, '.' | ':') { '-' } else { c };
    let name: String = registry_name(host)
        .chars()
        .map(plain)
        .take(LONGEST_SECRET)
        .collect();
    name.trim_matches(['-', '_']).to_owned()
}

/// Writes the name of a secret as resources do.
fn named(secret: &str) -> String {
    format!("{{ secret: {secret} }}")
}

/// Names a mirror after its repository, with a number where that is taken.
fn free_name(repository: &str, names: &mut BTreeSet<String>) -> String {
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

/// Writes a text so that YAML reads the same text.
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
