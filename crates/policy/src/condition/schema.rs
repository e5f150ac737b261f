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

    /// Returns the fields with their types.
    pub(super) fn fields(self) -> Vec<(&'static str, Type)> {
        match self {
            Self::Scan => vec![
                ("critical", Type::Int),
                ("high", Type::Int),
                ("medium", Type::Int),
                ("low", Type::Int),
                ("unknown", Type::Int),
                ("total", Type::Int),
                ("fixable", Type::Int),
                ("packages", Type::Int),
                ("os", Type::Text),
                ("end_of_life", Type::Bool),
                ("age", Type::Duration),
                ("dtr", Type::Object(Self::DtrCounts)),
            ],
            Self::DtrCounts => vec![
                ("critical", Type::Int),
                ("major", Type::Int),
                ("minor", Type::Int),
            ],
            Self::Image => vec![
                ("created", Type::Timestamp),
                ("size_bytes", Type::Int),
                (
                    "labels",
                    Type::Map(Box::new(Type::Text), Box::new(Type::Text)),
                ),
                ("platforms", Type::List(Box::new(Type::Text))),
            ],
        }
    }
}

/// Returns the variables with their types.
pub(super) fn variables(scope: Scope) -> Vec<(&'static str, Type)> {
    let mut variables = vec![
        ("tag", Type::Text),
        ("repository", Type::Text),
        ("scan", Type::Object(Object::Scan)),
        ("image", Type::Object(Object::Image)),
        ("updated_at", Type::Timestamp),
        ("now", Type::Timestamp),
    ];
    if scope == Scope::Promotion {
        variables.push(("platform", Type::Text));
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
