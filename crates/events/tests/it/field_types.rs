//! The domain type of a field of the protocol: its name says it, or where that does not suffice, an option of the field.

use std::fmt;

use protox::prost_reflect::{FieldDescriptor, Kind, Value};

use crate::protocol::compile;

/// The types that the text of a field may have, with where they are in Rust.
const TEXTS: [(&str, Option<&str>); 9] = [
    ("Digest", Some("sluice_domain::Digest")),
    ("EventId", Some("crate::id::EventId")),
    ("Platform", Some("sluice_domain::Platform")),
    ("RegistryHost", Some("sluice_domain::RegistryHost")),
    ("RemoteRepository", Some("sluice_domain::RemoteRepository")),
    ("Repository", Some("sluice_domain::Repository")),
    ("ResourceName", Some("sluice_domain::ResourceName")),
    ("String", None),
    ("Tag", Some("sluice_domain::Tag")),
];

/// The type of a text by the name of its field, or by the part of the name after its last underscore.
const NAMES: [(&str, &str); 17] = [
    ("actor", "String"),
    ("digest", "Digest"),
    ("endpoint", "ResourceName"),
    ("event_id", "EventId"),
    ("mirror", "ResourceName"),
    ("platform", "Platform"),
    ("policy", "ResourceName"),
    ("previous", "Digest"),
    ("reason", "String"),
    ("registry", "RegistryHost"),
    ("repository", "Repository"),
    ("scanner", "ResourceName"),
    ("source", "RemoteRepository"),
    ("tag", "Tag"),
    ("target", "Repository"),
    ("type", "String"),
    ("version", "String"),
];

/// A domain type, and how a field has it.
#[derive(Debug)]
pub(crate) struct FieldType {
    /// Its name in Rust.
    pub(crate) name: String,
    /// Where it is in Rust, if it has to be imported.
    pub(crate) path: Option<&'static str>,
    /// Whether the field may have no value.
    may_be_empty: bool,
    /// Whether the field is a list of messages.
    pub(crate) is_list: bool,
}

impl FieldType {
    /// Returns the type of a field, or why it has none.
    pub(crate) fn of(field: &FieldDescriptor) -> Result<Self, String> {
        Self::find(field).map_err(|reason| format!("field `{}`: {reason}", field.full_name()))
    }

    fn find(field: &FieldDescriptor) -> Result<Self, String> {
        let option_type = option(field, "type");
        let may_be_empty = option(field, "may_be_empty").is_some();
        let kind = field.kind();
        let is_text =
            matches!(kind, Kind::String) && !field.is_list() && !field.supports_presence();
        if is_text {
            let option_type = option_type.as_ref().and_then(Value::as_str);
            let (name, path) = text_type(field.name(), option_type)?;
            if may_be_empty && name == "String" {
                return Err("a `String` may be empty without the option `may_be_empty`".to_owned());
            }
            return Ok(Self {
                may_be_empty,
                ..Self::new(name, path)
            });
        }
        if option_type.is_some() || may_be_empty {
            return Err("only a text can have the options `type` and `may_be_empty`".to_owned());
        }
        if field.is_list() || field.is_map() {
            return match kind {
                Kind::Message(message) if !field.is_map() => Ok(Self {
                    is_list: true,
                    ..Self::new(message.name(), None)
                }),
                _ => Err("only messages can be in a list".to_owned()),
            };
        }
        match kind {
            Kind::Message(message) => match message.full_name() {
                "google.protobuf.Timestamp" => {
                    Ok(Self::new("DateTime<Utc>", Some("chrono::{DateTime, Utc}")))
                }
                "sluice.events.v1.SeverityCounts" => Ok(Self::new(
                    "SeverityCounts",
                    Some("sluice_domain::SeverityCounts"),
                )),
                other => Err(format!("a `{other}` can only be in a list")),
            },
            Kind::Uint64 => Ok(Self::new("u64", None)),
            Kind::Uint32 => Ok(Self::new("u32", None)),
            Kind::Bool => Ok(Self::new("bool", None)),
            Kind::Bytes => Ok(Self::new("Vec<u8>", None)),
            other => Err(format!("there is no domain type for {other:?}")),
        }
    }

    fn new(name: &str, path: Option<&'static str>) -> Self {
        Self {
            name: name.to_owned(),
            path,
            may_be_empty: false,
            is_list: false,
        }
    }
}

/// Writes the type of the field as Rust does.
impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.name;
        match self {
            Self { is_list: true, .. } => write!(f, "Vec<{name}>"),
            Self {
                may_be_empty: true, ..
            } => write!(f, "Option<{name}>"),
            Self { .. } => f.write_str(name),
        }
    }
}

/// Returns the type of a text, by the name of its field and its option `type`.
fn text_type(
    field: &str,
    option: Option<&str>,
) -> Result<(&'static str, Option<&'static str>), String> {
    let by_name = |name: &str| NAMES.iter().find(|(known, _)| *known == name);
    let last_word = field.rsplit('_').next().unwrap();
    let by_name = by_name(field)
        .or_else(|| by_name(last_word))
        .map(|row| row.1);
    if option.is_some() && option == by_name {
        return Err("its name says its type; remove the option `type`".to_owned());
    }
    let name = option
        .or(by_name)
        .ok_or("its name does not say its type; add the option `type`")?;
    let mut texts = TEXTS.iter();
    let text = texts.find(|(known, _)| *known == name);
    text.copied()
        .ok_or_else(|| format!("the type `{name}` is not known"))
}

/// Returns the value of an option that `options.proto` declares, if the field has it.
fn option(field: &FieldDescriptor, name: &str) -> Option<Value> {
    let option = format!("sluice.events.v1.{name}");
    let option = field.parent_pool().get_extension_by_name(&option).unwrap();
    let options = field.options();
    let is_set = options.has_extension(&option);
    is_set.then(|| options.get_extension(&option).into_owned())
}

#[test]
fn a_field_without_a_known_type_is_refused_with_its_name() {
    let text = "only a text can have the options `type` and `may_be_empty`";
    let list = "only messages can be in a list";
    for (field, reason) in [
        (
            "string y = 1;",
            "its name does not say its type; add the option `type`",
        ),
        (
            "string y = 1 [(type) = 'Colour'];",
            "the type `Colour` is not known",
        ),
        (
            "string old_tag = 1 [(type) = 'Tag'];",
            "its name says its type; remove the option `type`",
        ),
        (
            "string actor = 1 [(may_be_empty) = true];",
            "a `String` may be empty without the option `may_be_empty`",
        ),
        ("uint64 y = 1 [(type) = 'Digest'];", text),
        ("repeated X y = 1 [(may_be_empty) = true];", text),
        ("repeated string tag = 1;", list),
        ("map<string, X> y = 1;", list),
        ("X y = 1;", "a `sluice.events.v1.X` can only be in a list"),
        (
            "optional string tag = 1;",
            "there is no domain type for string",
        ),
        ("double y = 1;", "there is no domain type for double"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let source = format!(
            "syntax = 'proto3'; package sluice.events.v1; \
             import 'sluice/events/v1/options.proto'; message X {{ {field} }}"
        );
        std::fs::write(folder.path().join("x.proto"), source).unwrap();
        let pool = compile(folder.path(), &["x.proto"]);
        let message = pool.get_message_by_name("sluice.events.v1.X").unwrap();
        let field = message.get_field(1).unwrap();
        let expected = format!("field `{}`: {reason}", field.full_name());
        assert_eq!(FieldType::of(&field).unwrap_err(), expected);
    }
}
