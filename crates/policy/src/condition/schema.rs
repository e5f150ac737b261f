//! What conditions may name: variables, their fields and functions, with types.

use std::fmt;

/// Where a condition stands, which decides the names it may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `when` of a promotion policy; judged once per child image, so that `platform` is known.
    Promotion,
    /// `delete` of a pruning policy; judged once per tag.
    Pruning,
}

/// The type of an expression, as far as it can be told before it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Type {
    /// Not known; goes with everything. Only empty lists and maps have it.
    Any,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Null,
    Duration,
    Timestamp,
    List(Box<Self>),
    Map(Box<Self>, Box<Self>),
    Object(Object),
}

/// A variable with fields of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Object {
    Scan,
    DtrCounts,
    Image,
}

impl Type {
    /// Says whether a value of one type can stand for the other.
    pub(super) fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::List(a), Self::List(b)) => a.fits(b),
            (Self::Map(a, b), Self::Map(c, d)) => a.fits(c) && b.fits(d),
            (a, b) => a == b,
        }
    }

    pub(super) const fn is_number(&self) -> bool {
        matches!(self, Self::Any | Self::Int | Self::Uint | Self::Double)
    }

    pub(super) const fn is_ordered(&self) -> bool {
        self.is_number()
            || matches!(
                self,
                Self::Text | Self::Bytes | Self::Duration | Self::Timestamp
            )
    }

    /// Returns the type of the elements of two lists, or of two branches, taken together.
    pub(super) fn joined(self, other: Self) -> Self {
        match (self, other) {
            (Self::Any, other) => other,
            (mine, Self::Any) => mine,
            (mine, other) if mine == other => mine,
            _ => Self::Any,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::Text => "string",
            Self::Bytes => "bytes",
            Self::Null => "null",
            Self::Duration => "duration",
            Self::Timestamp => "timestamp",
            Self::Object(object) => object.name(),
            Self::List(element) => return write!(f, "list({element})"),
            Self::Map(key, value) => return write!(f, "map({key}, {value})"),
        })
    }
}

impl Object {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Scan => "scan",
            Self::DtrCounts => "scan.dtr",
            Self::Image => "image",
        }
    }

    /// Returns the fields with their types and what they mean.
    pub(super) fn fields(self) -> Vec<Variable> {
        match self {
            Self::Scan => vec![
                ("critical", Type::Int, "Critical findings."),
                ("high", Type::Int, "High findings."),
                ("medium", Type::Int, "Medium findings."),
                ("low", Type::Int, "Low findings."),
                ("unknown", Type::Int, "Findings without a severity."),
                ("total", Type::Int, "All findings."),
                (
                    "fixable",
                    Type::Int,
                    "Findings that a newer package fixes; unknown where the scanner does not report it.",
                ),
                ("packages", Type::Int, "Packages that the scanner saw."),
                (
                    "os",
                    Type::Text,
                    "The operating system, as in `debian 12.5`; unknown where none was recognised.",
                ),
                (
                    "end_of_life",
                    Type::Bool,
                    "Whether the operating system gets no more advisories, so that findings may be missing.",
                ),
                (
                    "age",
                    Type::Duration,
                    "Time since the image was last matched against the vulnerability database.",
                ),
                (
                    "dtr",
                    Type::Object(Self::DtrCounts),
                    "Findings by CVSS score, as Docker Trusted Registry counted them.",
                ),
            ],
            Self::DtrCounts => vec![
                ("critical", Type::Int, "Findings with a score of 7 or more."),
                (
                    "major",
                    Type::Int,
                    "Findings with a score from 4 to below 7.",
                ),
                ("minor", Type::Int, "Findings with a score below 4."),
            ],
            Self::Image => vec![
                (
                    "created",
                    Type::Timestamp,
                    "When the image was built, by its configuration.",
                ),
                (
                    "size_bytes",
                    Type::Int,
                    "The size of its layers, compressed.",
                ),
                (
                    "labels",
                    Type::Map(Box::new(Type::Text), Box::new(Type::Text)),
                    "The labels of its configuration; unknown if there are more than 128.",
                ),
                (
                    "platforms",
                    Type::List(Box::new(Type::Text)),
                    "The platforms of the index, or of the one image, as in `linux/amd64`.",
                ),
            ],
        }
    }
}

/// A variable or a field: its name, its type and what it means.
pub(super) type Variable = (&'static str, Type, &'static str);

/// Returns the variables with their types and what they mean.
pub(super) fn variables(scope: Scope) -> Vec<Variable> {
    let mut variables = vec![
        ("tag", Type::Text, "The tag."),
        (
            "repository",
            Type::Text,
            "The repository of the tag, as in `hub/alpine`.",
        ),
        (
            "scan",
            Type::Object(Object::Scan),
            "What the scanner found; unknown without a verdict, and if the scanner saw no packages.",
        ),
        (
            "image",
            Type::Object(Object::Image),
            "What the image says of itself.",
        ),
        (
            "updated_at",
            Type::Timestamp,
            "When the tag began to name this digest here.",
        ),
        ("now", Type::Timestamp, "The time of the evaluation."),
    ];
    if scope == Scope::Promotion {
        variables.push((
            "platform",
            Type::Text,
            "The platform of the evaluated image, as in `linux/amd64`.",
        ));
    }
    variables
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

/// Those of them whose argument is a pattern.
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
    fn add(lines: &mut Vec<Reference>, prefix: &str, variables: Vec<Variable>) {
        for (name, kind, doc) in variables {
            let name = format!("{prefix}{name}");
            let fields = match kind {
                Type::Object(object) => Some((format!("{name}."), object.fields())),
                _ => None,
            };
            let kind = match &fields {
                Some(_) => "object".to_owned(),
                None => kind.to_string(),
            };
            lines.push(Reference { name, kind, doc });
            if let Some((prefix, fields)) = fields {
                add(lines, &prefix, fields);
            }
        }
    }
    let mut lines = Vec::new();
    add(&mut lines, "", variables(scope));
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
