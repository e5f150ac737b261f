//! A message of every type: the one in its golden file, and one with a value in every field.

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use prost_types::Timestamp;
use protox::prost_reflect::prost::Message as _;
use protox::prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use sluice_events::{Command, Event, Message};

use crate::field_types::FieldType;
use crate::protocol::{PROTOCOL, root, update};

/// The seconds of 2026-11-24.
const TIME: i64 = 1_795_478_400;

/// A message and its bytes.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) type_name: &'static str,
    pub(crate) payload: Vec<u8>,
    pub(crate) message: Message,
}

/// The messages of the golden files. With `UPDATE=1`, a type without one has a message with a value in every field.
pub(crate) static RELEASED: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let released = |type_name| {
        let file = golden_file(type_name, "bin");
        if update() && !file.exists() {
            return complete(type_name);
        }
        let payload = fs::read(file);
        let payload =
            payload.unwrap_or_else(|_| panic!("no golden file for {type_name}; run with UPDATE=1"));
        Sample::of(type_name, payload)
    };
    type_names().map(released).collect()
});

/// A message of every type, with a value in every field.
pub(crate) static COMPLETE: LazyLock<Vec<Sample>> =
    LazyLock::new(|| type_names().map(complete).collect());

/// Returns the event of each golden file.
pub(crate) fn events() -> Vec<Event> {
    let event = |sample: &Sample| match &sample.message {
        Message::Event(event) => Some(event.clone()),
        Message::Command(_) => None,
    };
    RELEASED.iter().filter_map(event).collect()
}

/// Returns the full names of the types of facts and commands.
pub(crate) fn type_names() -> impl Iterator<Item = &'static str> {
    let facts = Event::TYPES.iter().map(|fact| fact.type_name);
    facts.chain(Command::TYPES.iter().copied())
}

/// Returns the golden file of a type: its bytes are in `bin`, its public form in `json`.
pub(crate) fn golden_file(type_name: &str, extension: &str) -> PathBuf {
    let name = type_name.rsplit('.').next().unwrap();
    let folder = root().join("tests/contract/golden/v1");
    folder.join(format!("{name}.{extension}"))
}

impl Sample {
    fn of(type_name: &'static str, payload: Vec<u8>) -> Self {
        let message = Message::decode(type_name, &payload).unwrap();
        Self {
            type_name,
            payload,
            message,
        }
    }
}

fn complete(type_name: &'static str) -> Sample {
    let descriptor = PROTOCOL.get_message_by_name(type_name).unwrap();
    Sample::of(type_name, filled(&descriptor).encode_to_vec())
}

fn filled(descriptor: &MessageDescriptor) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        let mut value = value(&field);
        if field.is_list() {
            value = Value::List(vec![value]);
        }
        message.set_field(&field, value);
    }
    message
}

/// Returns a value that no other field of the message has, where its type has as many.
fn value(field: &FieldDescriptor) -> Value {
    let number = field.number();
    match field.kind() {
        Kind::String => Value::String(text(field)),
        Kind::Bytes => Value::Bytes(vec![1, 2, 3].into()),
        Kind::Bool => Value::Bool(true),
        Kind::Uint32 => Value::U32(number),
        Kind::Uint64 => Value::U64(number.into()),
        Kind::Message(message) if message.full_name() == "google.protobuf.Timestamp" => {
            let mut time = DynamicMessage::new(message);
            let seconds = TIME + i64::from(number);
            time.transcode_from(&Timestamp { seconds, nanos: 0 })
                .unwrap();
            Value::Message(time)
        }
        Kind::Message(message) => Value::Message(filled(&message)),
        kind => panic!("no sample of {kind:?}"),
    }
}

/// Returns a text of the type of the field.
fn text(field: &FieldDescriptor) -> String {
    let number = field.number();
    let name = field.name().replace('_', "-");
    match FieldType::of(field).unwrap().name.as_str() {
        "Digest" => format!("sha256:{}", format!("{number:02x}").repeat(32)),
        "EventId" => "7f9c24e8-3b12-5fef-8d4a-0c6d1f2a3b4c".to_owned(),
        "Platform" => "linux/amd64".to_owned(),
        "RegistryHost" => "registry.example".to_owned(),
        "RemoteRepository" => format!("docker.io/library/{name}"),
        "Repository" => format!("hub/{name}"),
        "ResourceName" | "String" => name,
        "Tag" => format!("{number}.0"),
        other => panic!("no sample of a text of type `{other}`"),
    }
}
