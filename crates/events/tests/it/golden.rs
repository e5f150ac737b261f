//! Every message that was ever released still reads and writes the same; `UPDATE=1` adds missing files.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use sluice_events::Message;

use crate::protocol::{messages, root, update};
use crate::samples::{COMPLETE, RELEASED, golden_file, type_names};

#[test]
fn released_messages_read_and_write_the_same() {
    for sample in &*RELEASED {
        let name = sample.type_name;
        // Also of a new message: of fields that the generated code does not have yet there would be nothing in the file.
        let bytes = encoded(&sample.message);
        assert_eq!(bytes, sample.payload, "{name} is written differently");
        let json = json(&sample.message);
        let binary_file = golden_file(name, "bin");
        let json_file = golden_file(name, "json");
        if update() && !binary_file.exists() {
            fs::write(&binary_file, &bytes).unwrap();
            let json = serde_json::to_string_pretty(&json).unwrap();
            fs::write(&json_file, json + "\n").unwrap();
        }
        let snapshot = fs::read_to_string(&json_file).unwrap();
        let snapshot = serde_json::from_str(&snapshot).unwrap();
        assert!(
            holds(&json, &snapshot),
            "{name} has another JSON form:\n{json:#}\ninstead of\n{snapshot:#}"
        );
    }
}

#[test]
fn every_field_of_a_message_is_read_and_written() {
    for sample in &*COMPLETE {
        let bytes = encoded(&sample.message);
        assert_eq!(bytes, sample.payload, "{}", sample.type_name);
    }
}

#[test]
fn every_message_has_a_row_and_no_released_message_is_missing() {
    let short = |name: &str| name.rsplit('.').next().unwrap().to_owned();
    let rows: BTreeSet<String> = type_names().map(short).collect();
    for message in ["facts", "commands"].into_iter().flat_map(messages) {
        assert!(
            rows.contains(&message.name),
            "{} is neither in `events!` nor in `commands!`",
            message.name
        );
    }
    for file in fs::read_dir(root().join("tests/contract/golden/v1")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(rows.contains(name), "{name} was released and is missing");
    }
}

fn encoded(message: &Message) -> Vec<u8> {
    match message {
        Message::Event(event) => event.encode(),
        Message::Command(command) => command.encode(),
    }
}

/// Returns the JSON of a message. That of commands is no public API, but shows in the snapshot what was read.
fn json(message: &Message) -> Value {
    match message {
        Message::Event(event) => event.to_json(),
        Message::Command(command) => serde_json::to_value(command).unwrap(),
    }
}

/// Says whether everything that was promised is still there; a later version may add keys.
fn holds(now: &Value, promised: &Value) -> bool {
    match (now, promised) {
        (Value::Object(now), Value::Object(promised)) => promised
            .iter()
            .all(|(key, value)| now.get(key).is_some_and(|now| holds(now, value))),
        (Value::Array(now), Value::Array(promised)) => {
            now.len() == promised.len()
                && now
                    .iter()
                    .zip(promised)
                    .all(|(now, value)| holds(now, value))
        }
        _ => now == promised,
    }
}
