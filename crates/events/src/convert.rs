//! Conversion between wire fields and domain values: one trait, and the macro that declares a message once.

use chrono::{DateTime, Utc};
use prost_types::Timestamp;
use sluice_domain::{
    Digest, Platform, RegistryHost, RemoteRepository, Repository, ResourceName, SeverityCounts, Tag,
};
use thiserror::Error;

use crate::id::EventId;
use crate::wire::events as wire;

/// A message that does not conform to its type.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes are not a protobuf message of the type.
    #[error("`{type_name}` cannot be decoded")]
    Bytes {
        /// The type that was declared.
        type_name: String,
        /// The error of the protobuf decoder.
        source: prost::DecodeError,
    },
    /// A field is not valid.
    #[error("field `{field}` of `{type_name}` is not valid: {reason}")]
    Field {
        /// The type.
        type_name: &'static str,
        /// The field.
        field: &'static str,
        /// Why it is not valid.
        reason: String,
    },
    /// The type is not known; a newer version may have published it.
    #[error("message type `{type_name}` is not known")]
    Unknown {
        /// The type that was declared.
        type_name: String,
    },
}

/// A domain value that travels as a protobuf field.
pub(crate) trait Field: Sized {
    /// The generated type of the field.
    type Wire;

    fn from_wire(wire: Self::Wire) -> Result<Self, String>;
    fn to_wire(&self) -> Self::Wire;
}

macro_rules! same_field {
    ($($type:ty),*) => { $(
        impl Field for $type {
            type Wire = Self;

            fn from_wire(wire: Self) -> Result<Self, String> {
                Ok(wire)
            }

            fn to_wire(&self) -> Self {
                self.clone()
            }
        }
    )* };
}
same_field!(String, u64, u32, bool, Vec<u8>);

macro_rules! text_field {
    ($($type:ty),*) => { $(
        impl Field for $type {
            type Wire = String;

            fn from_wire(wire: String) -> Result<Self, String> {
                wire.parse().map_err(|error| format!("{error}"))
            }

            fn to_wire(&self) -> String {
                self.to_string()
            }
        }

        impl Field for Option<$type> {
            type Wire = String;

            fn from_wire(wire: String) -> Result<Self, String> {
                if wire.is_empty() { Ok(None) } else { <$type>::from_wire(wire).map(Some) }
            }

            fn to_wire(&self) -> String {
                self.as_ref().map(ToString::to_string).unwrap_or_default()
            }
        }
    )* };
}
text_field!(
    Digest,
    EventId,
    Platform,
    RegistryHost,
    RemoteRepository,
    Repository,
    ResourceName,
    Tag
);

impl Field for DateTime<Utc> {
    type Wire = Option<Timestamp>;

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        time_from_wire(wire.as_ref())
            .ok_or_else(|| "the time is missing or out of range".to_owned())
    }

    fn to_wire(&self) -> Self::Wire {
        Some(time_to_wire(*self))
    }
}

impl Field for SeverityCounts {
    type Wire = Option<wire::SeverityCounts>;

    fn from_wire(wire: Self::Wire) -> Result<Self, String> {
        Ok(wire.ok_or("the counts are missing")?.into())
    }

    fn to_wire(&self) -> Self::Wire {
        let Self {
            critical,
            high,
            medium,
            low,
            unknown,
        } = *self;
        Some(wire::SeverityCounts {
            critical,
            high,
            medium,
            low,
            unknown,
        })
    }
}

impl From<wire::SeverityCounts> for SeverityCounts {
    fn from(counts: wire::SeverityCounts) -> Self {
        let wire::SeverityCounts {
            critical,
            high,
            medium,
            low,
            unknown,
        } = counts;
        Self {
            critical,
            high,
            medium,
            low,
            unknown,
        }
    }
}

/// Reads a protobuf timestamp, if it is there and within chrono's range.
#[must_use]
pub fn time_from_wire(timestamp: Option<&Timestamp>) -> Option<DateTime<Utc>> {
    let timestamp = timestamp?;
    DateTime::from_timestamp(timestamp.seconds, u32::try_from(timestamp.nanos).ok()?)
}

/// Returns a time as a protobuf timestamp can hold it, which has no leap seconds: one becomes the last nanosecond before
/// it.
#[must_use]
pub fn without_leap_second(time: DateTime<Utc>) -> DateTime<Utc> {
    time_from_wire(Some(&time_to_wire(time))).unwrap_or(time)
}

/// Writes a protobuf timestamp.
#[must_use]
pub fn time_to_wire(time: DateTime<Utc>) -> Timestamp {
    let nanos = i32::try_from(time.timestamp_subsec_nanos())
        .unwrap_or(999_999_999)
        .min(999_999_999);
    Timestamp {
        seconds: time.timestamp(),
        nanos,
    }
}

/// Declares domain structs that mirror wire messages of the same name, with the conversion both ways.
macro_rules! messages {
    ($( $(#[$doc:meta])* $name:ident { $( $(#[$field_doc:meta])* $field:ident: $type:ty, )* } )*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $( $(#[$field_doc])* pub $field: $type, )*
        }

        impl TryFrom<$crate::wire::events::$name> for $name {
            type Error = $crate::convert::DecodeError;

            fn try_from(wire: $crate::wire::events::$name) -> Result<Self, Self::Error> {
                Ok(Self { $(
                    $field: <$type as $crate::convert::Field>::from_wire(wire.$field).map_err(|reason| {
                        $crate::convert::DecodeError::Field {
                            type_name: stringify!($name),
                            field: stringify!($field),
                            reason,
                        }
                    })?,
                )* })
            }
        }

        impl From<&$name> for $crate::wire::events::$name {
            fn from(value: &$name) -> Self {
                Self { $( $field: $crate::convert::Field::to_wire(&value.$field), )* }
            }
        }
    )* };
}
pub(crate) use messages;

/// Makes a declared struct an element of a repeated field.
macro_rules! repeated_field {
    ($($name:ident),*) => { $(
        impl $crate::convert::Field for Vec<$name> {
            type Wire = Vec<$crate::wire::events::$name>;

            fn from_wire(wire: Self::Wire) -> Result<Self, String> {
                wire.into_iter()
                    .map(|item| item.try_into().map_err(|error: $crate::convert::DecodeError| error.to_string()))
                    .collect()
            }

            fn to_wire(&self) -> Self::Wire {
                self.iter().map(Into::into).collect()
            }
        }
    )* };
}
pub(crate) use repeated_field;
