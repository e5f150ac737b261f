//! The types of expressions in conditions.

use std::fmt;

/// The type of an expression, as far as it is known before the evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Type {
    /// Not known; fits every type. Only empty lists and maps have it.
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
    /// A variable or field with fields of its own, by its path, as in `scan.dtr`.
    Object(&'static str),
}

impl Type {
    /// Says whether a value of this type can be used where the other is expected.
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
            Self::Object(path) => path,
            Self::List(element) => return write!(f, "list({element})"),
            Self::Map(key, value) => return write!(f, "map({key}, {value})"),
        })
    }
}
