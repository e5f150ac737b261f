//! Reads YAML files of resources and keeps the line numbers for the messages.
//!
//! Documents are split at `---` and read one by one into their concrete type: tagged enums would lose the lines.

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Kind, Resource};

/// The largest file that is read, in bytes.
const MAX_BYTES: usize = 4 << 20;

/// One resource with its place in the file.
#[derive(Debug, Clone)]
pub struct Document {
    /// The resource.
    pub resource: Resource,
    /// The line its document starts at, from 1.
    pub line: usize,
    text: String,
}

impl Document {
    /// Returns the line of a key of this document, or the document's first line.
    #[must_use]
    pub fn line_of(&self, key: &str) -> usize {
        line_of(&self.text, self.line, key)
    }
}

/// What is wrong in a file, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}

#[derive(Deserialize)]
struct Head {
    kind: Option<String>,
}

/// Reads every document of a file.
///
/// # Errors
/// All problems of all documents.
pub fn documents(text: &str) -> Result<Vec<Document>, Vec<Problem>> {
    if text.len() > MAX_BYTES {
        return Err(vec![Problem {
            line: 1,
            message: "the file is larger than 4 MiB; split it".to_owned(),
        }]);
    }
    let (mut read, mut problems) = (Vec::new(), Vec::new());
    for (line, text) in split(text) {
        match document(line, &text) {
            Ok(document) => {
                let faults = document.resource.faults();
                problems.extend(faults.into_iter().map(|(key, message)| Problem {
                    line: document.line_of(key),
                    message: format!("`{key}`: {message}"),
                }));
                read.push(document);
            }
            Err(problem) => problems.push(problem),
        }
    }
    if read.is_empty() && problems.is_empty() {
        problems.push(Problem {
            line: 1,
            message: "the file holds no resource; write one document per resource".to_owned(),
        });
    }
    if problems.is_empty() {
        Ok(read)
    } else {
        Err(problems)
    }
}

/// Splits at document markers, which YAML knows only at the start of a line.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut parts: Vec<(usize, String)> = vec![(1, String::new())];
    for (index, line) in text.lines().enumerate() {
        if line == "---" || line.starts_with("--- ") {
            parts.push((index + 2, String::new()));
            continue;
        }
        if let Some((_, part)) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    parts.retain(|(_, part)| {
        part.lines()
            .map(str::trim)
            .any(|line| !line.is_empty() && !line.starts_with('#') && line != "...")
    });
    parts
}

fn document(line: usize, text: &str) -> Result<Document, Problem> {
    let head: Head = parse(line, text)?;
    let Some(kind) = head.kind else {
        let message = "the document has no `kind`; start it with, say, `kind: Mirror`".to_owned();
        return Err(Problem { line, message });
    };
    let kind: Kind = kind.parse().map_err(|error: crate::InvalidName| Problem {
        line: line_of(text, line, "kind"),
        message: error.to_string(),
    })?;
    let body = without_kind(text);
    let resource = match kind {
        Kind::Registry => Resource::Registry(parse(line, &body)?),
        Kind::Mirror => Resource::Mirror(parse(line, &body)?),
        Kind::Repository => Resource::Repository(parse(line, &body)?),
        Kind::PromotionPolicy => Resource::PromotionPolicy(parse(line, &body)?),
        Kind::PruningPolicy => Resource::PruningPolicy(parse(line, &body)?),
        Kind::Webhook => Resource::Webhook(parse(line, &body)?),
        Kind::Account => Resource::Account(parse(line, &body)?),
    };
    Ok(Document {
        resource,
        line,
        text: text.to_owned(),
    })
}

/// Blanks the `kind:` line, which the concrete types do not have, so that the lines stay where they are.
fn without_kind(text: &str) -> String {
    let keep = |line: &str| {
        if is_key(line, "kind") {
            String::new()
        } else {
            line.to_owned()
        }
    };
    text.lines().map(|line| keep(line) + "\n").collect()
}

fn parse<T: DeserializeOwned>(line: usize, text: &str) -> Result<T, Problem> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 200_000, max_aliases: 100, max_anchors: 100, max_depth: 32, max_nodes: 100_000, max_documents: 1
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let offset = error.location().map_or(0, |location| {
            usize::try_from(location.line())
                .unwrap_or(1)
                .saturating_sub(1)
        });
        Problem {
            line: line + offset,
            message: message(&error.to_string()),
        }
    })
}

/// Drops the place within the document, which the problem states for the file, and keeps one line.
fn message(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let told = first
        .split_once(": ")
        .filter(|(place, _)| place.starts_with("line "))
        .map_or(first, |(_, told)| told);
    told.chars().take(400).collect()
}

fn line_of(text: &str, first: usize, key: &str) -> usize {
    // A key may also stand within braces, as in `tags: { newest: 3 }`.
    let holds = |line: &str| {
        line.split(['{', ','])
            .any(|part| is_key(part.trim_start(), key))
    };
    let index = text.lines().position(holds);
    first + index.unwrap_or(0)
}

fn is_key(line: &str, key: &str) -> bool {
    line.strip_prefix(key)
        .is_some_and(|rest| rest.trim_start().starts_with(':'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "# comment\nkind: Registry\nname: docker-hub\nhost: docker.io\nusername: acme\npassword_file: /run/secrets/hub\n---\nkind: Mirror\nname: alpine\nfrom: docker.io/library/alpine\nto: hub/alpine\ntags: { semver: \">=3.18\", exclude: [\"*-rc*\", edge], newest: 10 }\nevery: 15m\n---\nkind: Repository\nname: hub/*\nvisibility: private\nscan: on_push\nkeep: 10\n---\nkind: PromotionPolicy\nname: clean\nfrom: hub/*\nto: official/{name}\ntag: \"%n\"\nwhen: scan.critical == 0\nsoak: 24h\nrequire: { platforms: [linux/amd64] }\nrecall: flag\n---\nkind: PruningPolicy\nname: nightly\nrepositories: [hub/*]\nschedule: \"0 3 * * *\"\ndelete: tag.matches(\"-rc\")\n---\nkind: Webhook\nname: hook\nurl: https://hooks.internal/x\nevents: [image.promoted, scan.failed]\nrepositories: [\"hub/*\"]\nformat: cloudevents\nsecret_file: /run/secrets/hook\n---\nkind: Account\nname: ci\npassword_file: /run/secrets/ci\npush: [\"hub/*\"]\n";

    #[test]
    fn every_kind_is_read_and_its_stored_form_read_again() {
        let documents = documents(GOOD).unwrap();
        assert_eq!(documents.len(), 7);
        for document in &documents {
            let resource = &document.resource;
            let again = Resource::from_json(resource.kind(), &resource.to_json().unwrap()).unwrap();
            assert_eq!(&again, resource);
        }
        assert_eq!(documents[3].line_of("when"), 26);
    }

    #[test]
    fn every_problem_is_told_with_its_line_in_the_file() {
        for (good, bad, line, told) in [
            ("every: 15m", "evry: 15m", 13, "evry"),
            ("every: 15m", "every: 15 minutes", 13, "duration"),
            ("every: 15m", "every: 1s", 13, "shortest"),
            ("keep: 10", "keep: ten", 19, ""),
            ("kind: Webhook", "kind: Webhok", 37, "this version knows"),
            ("kind: Webhook", "", 37, "no `kind`"),
            ("https://hooks.internal/x", "ftp://x/y", 39, "https://"),
            ("name: nightly", "name: nightly\nname: again", 33, ""),
        ] {
            let problems = documents(&GOOD.replace(good, bad)).unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert_eq!(problems[0].line, line, "{problems:?}");
            assert!(problems[0].message.contains(told), "{problems:?}");
        }
    }

    #[test]
    fn all_documents_report_at_once() {
        let text = GOOD
            .replace("every: 15m", "evry: 15m")
            .replace("keep: 10", "kep: 10");
        assert_eq!(documents(&text).unwrap_err().len(), 2);
        assert!(documents("# nothing\n").is_err());
    }

    #[test]
    fn hostile_documents_are_refused() {
        let deep = format!("kind: Mirror\nname: {}", "[".repeat(100_000));
        assert!(documents(&deep).is_err());
        let laughs = "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\nkind: Mirror\n";
        assert!(documents(laughs).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,200}") {
            drop(documents(&text));
            drop(documents(&format!("kind: Mirror\nname: a\n{text}")));
        }
    }
}
