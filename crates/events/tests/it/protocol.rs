//! The protocol as the tests read it: descriptors with their comments.

use std::path::{Path, PathBuf};

use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};

const FILES: [&str; 4] = [
    "sluice/events/v1/types.proto",
    "sluice/events/v1/facts.proto",
    "sluice/events/v1/commands.proto",
    "sluice/state/v1/state.proto",
];

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Says whether a developer asked for files to be written.
#[expect(
    clippy::disallowed_methods,
    reason = "the switch of a developer's test run"
)]
pub(crate) fn update() -> bool {
    std::env::var("UPDATE").is_ok()
}

/// Compiles every file of the protocol.
pub(crate) fn compile() -> FileDescriptorSet {
    let protos = root().join("proto");
    protox::compile(FILES.map(|file| protos.join(file)), [&protos]).unwrap()
}

/// Returns the messages of one file, as in `facts`.
pub(crate) fn messages(file: &str) -> Vec<Message> {
    let name = format!("sluice/events/v1/{file}.proto");
    let set = compile();
    let file = set.file.iter().find(|file| file.name() == name).unwrap();
    file.message_type
        .iter()
        .zip(0..)
        .map(|(message, index)| Message::of(file, message, index))
        .collect()
}

/// A message with what is said about it.
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) comment: String,
    pub(crate) fields: Vec<Field>,
}

/// A field with what is said about it.
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) comment: String,
}

impl Message {
    fn of(file: &FileDescriptorProto, message: &DescriptorProto, index: i32) -> Self {
        let fields = message.field.iter().zip(0..).map(|(field, number)| {
            let kind = match field.type_name().rsplit('.').next() {
                Some("") | None => format!("{:?}", field.r#type()).to_lowercase(),
                Some("Timestamp") => "time".to_owned(),
                Some(name) => format!("`{name}`"),
            };
            let list = field.label() == prost_types::field_descriptor_proto::Label::Repeated;
            Field {
                name: field.name().to_owned(),
                kind: if list {
                    format!("list of {kind}")
                } else {
                    kind
                },
                comment: comment(file, &[4, index, 2, number]),
            }
        });
        Self {
            name: message.name().to_owned(),
            comment: comment(file, &[4, index]),
            fields: fields.collect(),
        }
    }
}

fn comment(file: &FileDescriptorProto, path: &[i32]) -> String {
    let locations = &file.source_code_info.as_ref().unwrap().location;
    let location = locations.iter().find(|location| location.path == path);
    location
        .map(|location| location.leading_comments().trim().replace("\n ", " "))
        .unwrap_or_default()
}

#[test]
fn every_message_field_and_value_has_a_sentence() {
    let set = compile();
    for file in set
        .file
        .iter()
        .filter(|f| f.package().starts_with("sluice."))
    {
        let mut places = Vec::new();
        for (message, index) in file.message_type.iter().zip(0..) {
            places.push((message.name().to_owned(), vec![4, index]));
            for (field, number) in message.field.iter().zip(0..) {
                let name = format!("{}.{}", message.name(), field.name());
                places.push((name, vec![4, index, 2, number]));
            }
        }
        for (kind, index) in file.enum_type.iter().zip(0..) {
            places.push((kind.name().to_owned(), vec![5, index]));
            assert!(
                kind.value[0].name().ends_with("_UNSPECIFIED"),
                "{} does not start with `..._UNSPECIFIED`",
                kind.name()
            );
            for (value, number) in kind.value.iter().zip(0..) {
                places.push((value.name().to_owned(), vec![5, index, 2, number]));
            }
        }
        for (name, path) in places {
            let comment = comment(file, &path);
            assert!(comment.ends_with('.'), "{name} has no sentence");
        }
    }
}
