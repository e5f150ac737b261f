//! Parses YAML files of resources and keeps the line numbers for the messages.
//!
//! Documents are split at `---` and read one by one into their concrete type: tagged enums would lose the lines.

mod document_reader;
mod message;
pub(super) mod schema;
#[cfg(test)]
mod tests;

use std::fmt;

use super::kinds::{Kind, Resource};
use document_reader::{DocumentBody, Fault, Head};
use message::did_you_mean;

/// The largest file that is read, in bytes.
const MAX_BYTES: usize = 4 << 20;
/// The most documents of one file.
const MAX_DOCUMENTS: usize = 10_000;
/// The most problems that are reported of one file.
const MAX_PROBLEMS: usize = 100;

/// One resource with its place in the file.
#[derive(Debug, Clone)]
pub struct Document {
    /// The resource.
    pub resource: Resource,
    /// The line of its first key, from 1.
    pub line: usize,
    keys: Vec<(String, usize)>,
    text: String,
    text_line: usize,
}

impl Document {
    /// Returns the line of a key of this document, or the document's first line.
    ///
    /// A top-level key goes before one of the same name further in.
    #[must_use]
    pub fn line_of(&self, key: &str) -> usize {
        let top = self.keys.iter().find(|(name, _)| name == key);
        if let Some((_, line)) = top {
            return *line;
        }
        let inner = |line: &str| {
            line.split(['{', ',', '-'])
                .filter_map(|part| part.trim_start().strip_prefix(key))
                .any(|rest| rest.trim_start().starts_with(':'))
        };
        let index = self.text.lines().position(inner);
        index.map_or(self.line, |index| self.text_line + index)
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

/// Parses every document of a YAML file.
///
/// # Errors
/// All problems of all documents, up to 100, in the order of the documents.
pub fn parse_documents(text: &str) -> Result<Vec<Document>, Vec<Problem>> {
    let whole_file = |message: &str| {
        let message = message.to_owned();
        Err(vec![Problem { line: 1, message }])
    };
    if text.len() > MAX_BYTES {
        return whole_file("the file is larger than 4 MiB; split it");
    }
    let parts = split(text);
    if parts.is_empty() {
        return whole_file("the file holds no resource; write one document per resource");
    }
    if parts.len() > MAX_DOCUMENTS {
        return whole_file("the file has more than 10000 documents; split it");
    }
    let (mut read, mut problems) = (Vec::new(), Vec::new());
    for part in parts {
        match part.document() {
            Ok(document) => read.push(document),
            Err(found) => problems.extend(found),
        }
        if problems.len() >= MAX_PROBLEMS {
            problems.truncate(MAX_PROBLEMS);
            break;
        }
    }
    if problems.is_empty() {
        Ok(read)
    } else {
        Err(problems)
    }
}

/// The text of one document, with its `---`.
struct Part {
    /// The line that it starts at, from 1.
    line: usize,
    text: String,
}

/// Splits at document markers, which YAML knows only at the start of a line.
fn split(text: &str) -> Vec<Part> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parts = Vec::new();
    let mut part = Part {
        line: 1,
        text: String::new(),
    };
    for (index, line) in text.lines().enumerate() {
        if marker(line).is_some() {
            let next = Part {
                line: index + 1,
                text: String::new(),
            };
            parts.push(std::mem::replace(&mut part, next));
        }
        part.text.push_str(line);
        part.text.push('\n');
    }
    parts.push(part);
    parts.retain(Part::has_content);
    parts
}

/// Returns what follows `---` in its line, if the line is a document marker.
fn marker(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("---")?;
    (rest.is_empty() || rest.starts_with([' ', '\t'])).then_some(rest)
}

impl Part {
    fn has_content(&self) -> bool {
        self.text.lines().any(|line| {
            let directive = line.starts_with('%');
            let line = marker(line).unwrap_or(line).trim();
            !(directive || line.is_empty() || line == "..." || line.starts_with('#'))
        })
    }

    fn document(self) -> Result<Document, Vec<Problem>> {
        let head = document_reader::head(&self.text).map_err(|fault| vec![self.problem(fault)])?;
        let resource = self.resource(&head).map_err(|faults| {
            faults
                .into_iter()
                .map(|fault| self.problem(fault))
                .collect::<Vec<_>>()
        })?;
        let most = self.text.lines().count();
        let keys: Vec<_> = head
            .keys
            .into_iter()
            .map(|(name, line)| (name, self.line + line.saturating_sub(1).min(most)))
            .collect();
        let document = Document {
            line: keys.first().map_or(self.line, |(_, line)| *line),
            keys,
            text: self.text,
            text_line: self.line,
            resource,
        };
        let faults = document.resource.faults();
        if faults.is_empty() {
            return Ok(document);
        }
        let problem = |(key, message): (&str, String)| Problem {
            line: document.line_of(key),
            message: message::visible(&format!("`{key}`: {message}")).collect(),
        };
        Err(faults.into_iter().map(problem).collect())
    }

    fn resource(&self, head: &Head) -> Result<Resource, Vec<Fault>> {
        let at = |key: Option<&(String, usize)>, message: String| {
            let line = key.map_or(1, |(_, line)| *line);
            vec![Fault { line, message }]
        };
        let Some(kind) = &head.kind else {
            let message = "the document has no `kind`; start it with, say, `kind: Mirror`";
            return Err(at(head.keys.first(), message.to_owned()));
        };
        let kind: Kind = kind.parse().map_err(|error: crate::name::InvalidName| {
            let hint = did_you_mean(kind, &Kind::ALL.map(Kind::as_str));
            let key = head.keys.iter().find(|(name, _)| name == "kind");
            at(key, format!("{error}{hint}"))
        })?;
        let text = &self.text;
        Resource::read(kind, &DocumentBody { text, head })
    }

    fn problem(&self, fault: Fault) -> Problem {
        // YAML counts a lone carriage return as a line break, and editors do not.
        let most = self.text.lines().count();
        Problem {
            line: self.line + fault.line.saturating_sub(1).min(most),
            message: fault.message,
        }
    }
}
