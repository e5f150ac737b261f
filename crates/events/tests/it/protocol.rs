//! The protocol as the tests read it: descriptors with their comments.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use prost_types::FileDescriptorProto;
use protox::Compiler;
use protox::prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

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

/// Every file of the protocol.
pub(crate) static PROTOCOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| compile(&root().join("proto"), &FILES));

/// Compiles files of a folder; they may import those of the protocol.
pub(crate) fn compile(folder: &Path, files: &[&str]) -> DescriptorPool {
    let mut compiler = Compiler::new([folder, &root().join("proto")]).unwrap();
    compiler.include_source_info(true).include_imports(true);
    compiler.open_files(files).unwrap();
    compiler.descriptor_pool()
}

/// Returns the messages of one file, as in `facts`.
pub(crate) fn messages(file: &str) -> Vec<Message> {
    let name = format!("sluice/events/v1/{file}.proto");
    let file = PROTOCOL.get_file_by_name(&name).unwrap();
    file.messages()
        .map(|message| Message::of(&message))
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
    pub(crate) descriptor: FieldDescriptor,
}

impl Message {
    fn of(descriptor: &MessageDescriptor) -> Self {
        let file = descriptor.parent_file_descriptor_proto();
        let mut fields: Vec<_> = descriptor.fields().collect();
        // As they are in the file.
        fields.sort_by(|a, b| a.path().cmp(b.path()));
        let fields = fields.into_iter().map(|field| {
            let kind = match field.kind() {
                Kind::Message(message) if message.name() == "Timestamp" => "time".to_owned(),
                Kind::Message(message) => format!("`{}`", message.name()),
                kind => format!("{kind:?}"),
            };
            Field {
                name: field.name().to_owned(),
                kind: if field.is_list() {
                    format!("list of {kind}")
                } else {
                    kind
                },
                comment: comment(file, field.path()),
                descriptor: field,
            }
        });
        Self {
            name: descriptor.name().to_owned(),
            comment: comment(file, descriptor.path()),
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
    for file in PROTOCOL
        .file_descriptor_protos()
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
