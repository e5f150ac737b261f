//! What conditions may name: one table of names, with their types and the facts that they come from, and the functions.
//!
//! The checker takes names and types from the table, and the evaluator the values.

use std::collections::HashMap;

use cel::Value;
use chrono::{DateTime, Utc};
use sluice_domain::{Platform, ScanFacts};

use super::facts::Facts;
use super::types::Type;

/// The most labels that are shown to a condition; more make `image.labels` unknown, so that loops stay short.
const MAX_LABELS: usize = 128;

/// Where a condition is used, which decides the names it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `when` of a promotion policy; evaluated once per child image, so that `platform` is known.
    Promotion,
    /// `delete` of a pruning policy; evaluated once per tag.
    Pruning,
}

/// A name that conditions may use.
struct Name {
    /// A variable, as in `tag`, or a field, as in `scan.high`.
    path: &'static str,
    kind: fn() -> Type,
    /// What it means.
    doc: &'static str,
    /// Returns its value; `None` where the fact is not known, so that naming it makes a condition undetermined.
    value: fn(&Facts<'_>) -> Option<Value>,
}

const INT: fn() -> Type = || Type::Int;
const TEXT: fn() -> Type = || Type::Text;
const BOOL: fn() -> Type = || Type::Bool;
const TIMESTAMP: fn() -> Type = || Type::Timestamp;
const DURATION: fn() -> Type = || Type::Duration;
const TEXTS: fn() -> Type = || Type::List(Box::new(Type::Text));
const LABELS: fn() -> Type = || Type::Map(Box::new(Type::Text), Box::new(Type::Text));

/// Every name, in the order of the hints; a name with fields comes before them.
static NAMES: &[Name] = &[
    Name {
        path: "tag",
        kind: TEXT,
        doc: "The tag.",
        value: |facts| Some(facts.tag.into()),
    },
    Name {
        path: "repository",
        kind: TEXT,
        doc: "The repository of the tag, as in `hub/alpine`.",
        value: |facts| Some(facts.repository.into()),
    },
    Name {
        path: "scan",
        kind: || Type::Object("scan"),
        doc: "What the scanner found; unknown without a verdict, and if the scanner saw no packages.",
        value: |facts| object("scan", facts),
    },
    Name {
        path: "scan.critical",
        kind: INT,
        doc: "Critical findings.",
        value: |facts| count(facts, |scan| scan.counts.critical),
    },
    Name {
        path: "scan.high",
        kind: INT,
        doc: "High findings.",
        value: |facts| count(facts, |scan| scan.counts.high),
    },
    Name {
        path: "scan.medium",
        kind: INT,
        doc: "Medium findings.",
        value: |facts| count(facts, |scan| scan.counts.medium),
    },
    Name {
        path: "scan.low",
        kind: INT,
        doc: "Low findings.",
        value: |facts| count(facts, |scan| scan.counts.low),
    },
    Name {
        path: "scan.unknown",
        kind: INT,
        doc: "Findings without a severity.",
        value: |facts| count(facts, |scan| scan.counts.unknown),
    },
    Name {
        path: "scan.total",
        kind: INT,
        doc: "All findings.",
        value: |facts| count(facts, |scan| scan.counts.total()),
    },
    Name {
        path: "scan.fixable",
        kind: INT,
        doc: "Findings that a newer package fixes; unknown where the scanner does not report it.",
        value: |facts| usable_scan(facts)?.fixable.map(integer),
    },
    Name {
        path: "scan.packages",
        kind: INT,
        doc: "Packages that the scanner saw.",
        value: |facts| count(facts, |scan| scan.packages),
    },
    Name {
        path: "scan.os",
        kind: TEXT,
        doc: "The operating system, as in `debian 12.5`; unknown where none was recognised.",
        value: |facts| usable_scan(facts)?.os.as_deref().map(Into::into),
    },
    Name {
        path: "scan.end_of_life",
        kind: BOOL,
        doc: "Whether the operating system gets no more advisories, so that findings may be missing.",
        value: |facts| Some(Value::Bool(usable_scan(facts)?.end_of_life)),
    },
    Name {
        path: "scan.age",
        kind: DURATION,
        doc: "Time since the image was last matched against the vulnerability database.",
        value: |facts| {
            let scanned_at = usable_scan(facts)?.scanned_at?;
            Some(Value::Duration(facts.now - scanned_at))
        },
    },
    Name {
        path: "scan.dtr",
        kind: || Type::Object("scan.dtr"),
        doc: "Findings by CVSS score, as Docker Trusted Registry counted them.",
        value: |facts| object("scan.dtr", facts),
    },
    Name {
        path: "scan.dtr.critical",
        kind: INT,
        doc: "Findings with a score of 7 or more.",
        value: |facts| count(facts, |scan| scan.dtr.critical),
    },
    Name {
        path: "scan.dtr.major",
        kind: INT,
        doc: "Findings with a score from 4 to below 7.",
        value: |facts| count(facts, |scan| scan.dtr.major),
    },
    Name {
        path: "scan.dtr.minor",
        kind: INT,
        doc: "Findings with a score below 4.",
        value: |facts| count(facts, |scan| scan.dtr.minor),
    },
    Name {
        path: "image",
        kind: || Type::Object("image"),
        doc: "What the image says of itself.",
        value: |facts| object("image", facts),
    },
    Name {
        path: "image.created",
        kind: TIMESTAMP,
        doc: "When the image was built, by its configuration.",
        value: |facts| facts.image.created.map(timestamp),
    },
    Name {
        path: "image.size_bytes",
        kind: INT,
        doc: "The size of its layers, compressed.",
        value: |facts| facts.image.size_bytes.map(integer),
    },
    Name {
        path: "image.labels",
        kind: LABELS,
        doc: "The labels of its configuration; unknown if there are more than 128.",
        value: |facts| {
            let labels = facts.image.labels.as_ref();
            let labels = labels.filter(|labels| labels.len() <= MAX_LABELS)?;
            let labels = labels
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()));
            Some(labels.collect::<HashMap<String, String>>().into())
        },
    },
    Name {
        path: "image.platforms",
        kind: TEXTS,
        doc: "The platforms of the index, or of the one image, as in `linux/amd64`.",
        value: |facts| {
            let platforms = facts.image.platforms.iter().map(Platform::to_string);
            Some(platforms.collect::<Vec<String>>().into())
        },
    },
    Name {
        path: "updated_at",
        kind: TIMESTAMP,
        doc: "When the tag began to name this digest here.",
        value: |facts| facts.updated_at.map(timestamp),
    },
    Name {
        path: "now",
        kind: TIMESTAMP,
        doc: "The time of the evaluation.",
        value: |facts| Some(timestamp(facts.now)),
    },
    Name {
        path: "platform",
        kind: TEXT,
        doc: "The platform of the evaluated image, as in `linux/amd64`.",
        value: |facts| Some(facts.platform?.to_string().into()),
    },
];

/// Returns the variables of a scope.
fn in_scope(scope: Scope) -> impl Iterator<Item = &'static Name> {
    let is_known = move |name: &&Name| {
        let is_variable = !name.path.contains('.');
        is_variable && (scope == Scope::Promotion || name.path != "platform")
    };
    NAMES.iter().filter(is_known)
}

/// Returns the fields of a variable or field, with their names.
fn fields_of(path: &str) -> impl Iterator<Item = (&'static str, &'static Name)> {
    NAMES.iter().filter_map(move |name| {
        let field = name.path.strip_prefix(path)?.strip_prefix('.')?;
        (!field.contains('.')).then_some((field, name))
    })
}

/// Returns the variables with their types.
pub(super) fn variables(scope: Scope) -> Vec<(&'static str, Type)> {
    let typed = |name: &Name| (name.path, (name.kind)());
    in_scope(scope).map(typed).collect()
}

/// Returns the fields of an object with their types.
pub(super) fn fields(path: &str) -> Vec<(&'static str, Type)> {
    let typed = |(field, name): (&'static str, &Name)| (field, (name.kind)());
    fields_of(path).map(typed).collect()
}

/// Returns the variables whose values are known.
pub(super) fn values<'a>(
    scope: Scope,
    facts: &'a Facts<'_>,
) -> impl Iterator<Item = (&'static str, Value)> + 'a {
    in_scope(scope).filter_map(|name| Some((name.path, (name.value)(facts)?)))
}

/// Returns the fields that are known; `None` where none is.
fn object(path: &'static str, facts: &Facts<'_>) -> Option<Value> {
    let fields: HashMap<String, Value> = fields_of(path)
        .filter_map(|(field, name)| Some((field.to_owned(), (name.value)(facts)?)))
        .collect();
    (!fields.is_empty()).then(|| fields.into())
}

/// Returns the scan, unless the scanner saw no packages.
fn usable_scan<'a>(facts: &Facts<'a>) -> Option<&'a ScanFacts> {
    facts.scan.filter(|scan| scan.packages > 0)
}

fn count(facts: &Facts<'_>, count: fn(&ScanFacts) -> u64) -> Option<Value> {
    Some(integer(count(usable_scan(facts)?)))
}

fn integer(number: u64) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

fn timestamp(at: DateTime<Utc>) -> Value {
    Value::Timestamp(at.fixed_offset())
}

/// The functions that are called on a string, with a string.
pub(super) const TEXT_METHODS: [&str; 6] = [
    "matches",
    "glob",
    "semver",
    "startsWith",
    "endsWith",
    "contains",
];

/// The ones whose argument is a pattern.
pub(super) const PATTERN_METHODS: [&str; 3] = ["matches", "glob", "semver"];

/// The functions that are called with one argument.
pub(super) const FUNCTIONS: [&str; 3] = ["size", "duration", "timestamp"];

/// A line of the reference page of conditions.
#[derive(Debug)]
pub struct Reference {
    /// The name, as in `scan.critical` or `tag.glob(pattern)`.
    pub name: String,
    /// The type of its value.
    pub kind: String,
    /// What it means.
    pub doc: &'static str,
}

/// Returns every variable of a scope, each followed by its fields.
#[must_use]
pub fn variable_reference(scope: Scope) -> Vec<Reference> {
    fn add(lines: &mut Vec<Reference>, name: &Name) {
        let kind = match (name.kind)() {
            Type::Object(_) => "object".to_owned(),
            kind => kind.to_string(),
        };
        lines.push(Reference {
            name: name.path.to_owned(),
            kind,
            doc: name.doc,
        });
        for (_, field) in fields_of(name.path) {
            add(lines, field);
        }
    }
    let mut lines = Vec::new();
    for name in in_scope(scope) {
        add(&mut lines, name);
    }
    lines
}

/// Returns every function.
#[must_use]
pub fn function_reference() -> Vec<Reference> {
    let names = TEXT_METHODS.into_iter().chain(FUNCTIONS);
    let lines = names.map(|function| {
        let (name, kind, doc) = match function {
            "matches" => ("string.matches(regex)", "bool", "Whether the regular expression matches somewhere in the string."),
            "glob" => ("string.glob(pattern)", "bool", "Whether the pattern matches the whole string, as in `tag.glob(\"*-alpine\")`."),
            "semver" => ("string.semver(range)", "bool", "Whether the string is a version in the range; see [TAGS.md](TAGS.md#what-is-in-a-range)."),
            "startsWith" => ("string.startsWith(string)", "bool", "Whether the string starts with another one."),
            "endsWith" => ("string.endsWith(string)", "bool", "Whether the string ends with another one."),
            "contains" => ("string.contains(string)", "bool", "Whether the string contains another one."),
            "size" => ("size(value)", "int", "The length of a string, bytes, a list or a map; also written `value.size()`."),
            "duration" => ("duration(string)", "duration", "A length of time, as in `duration(\"72h\")`."),
            "timestamp" => ("timestamp(string)", "timestamp", "A point in time, as in `timestamp(\"2027-01-31T00:00:00Z\")`."),
            other => (other, "", ""),
        };
        Reference {
            name: name.to_owned(),
            kind: kind.to_owned(),
            doc,
        }
    });
    lines.collect()
}
