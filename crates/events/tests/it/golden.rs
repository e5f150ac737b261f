//! Every message that was ever released still reads and writes the same; `UPDATE=1` adds missing files.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use sluice_events::{Command, Event, Message};

use crate::protocol::{messages, root, update};
use crate::samples;

#[test]
fn a_webhook_can_name_every_event_and_no_other() {
    let names: BTreeSet<&str> = samples::events().iter().map(Event::name).collect();
    assert_eq!(names, BTreeSet::from(sluice_domain::resources::EVENTS));
}

#[test]
fn released_messages_read_and_write_the_same() {
    let folder = root().join("tests/contract/golden/v1");
    fs::create_dir_all(&folder).unwrap();
    for message in samples::all() {
        let (type_name, bytes, json) = match &message {
            Message::Event(event) => (event.type_name(), event.encode(), event.to_json()),
            Message::Command(command) => (command.type_name(), command.encode(), json(command)),
        };
        let name = type_name.rsplit('.').next().unwrap();
        let binary_file = folder.join(format!("{name}.bin"));
        let json_file = folder.join(format!("{name}.json"));
        if update() && !binary_file.exists() {
            fs::write(&binary_file, &bytes).unwrap();
            fs::write(
                &json_file,
                serde_json::to_string_pretty(&json).unwrap() + "\n",
            )
            .unwrap();
        }
        let golden = fs::read(&binary_file)
            .unwrap_or_else(|_| panic!("no golden file for {name}; run with UPDATE=1"));
        let read = Message::decode(type_name, &golden).unwrap();
        assert_eq!(read, message, "{name} reads differently");
        assert_eq!(bytes, golden, "{name} is written differently");
        let snapshot = fs::read_to_string(&json_file).unwrap();
        let snapshot = serde_json::from_str(&snapshot).unwrap();
        assert!(
            holds(&json, &snapshot),
            "{name} has another JSON form:\n{json:#}\ninstead of\n{snapshot:#}"
        );
    }
}

#[test]
fn every_message_has_a_sample_and_a_golden_file() {
    let protocol: BTreeSet<String> = ["facts", "commands"]
        .into_iter()
        .flat_map(messages)
        .map(|message| message.name)
        .collect();
    let samples: BTreeSet<String> = samples::all()
        .iter()
        .map(|message| message.unexpected().type_name.to_owned())
        .map(|name| name.rsplit('.').next().unwrap().to_owned())
        .collect();
    assert_eq!(samples, protocol);
    for file in fs::read_dir(root().join("tests/contract/golden/v1")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(samples.contains(&name), "{name} was released and is gone");
    }
}

/// Commands are no public API, so only the snapshot needs their JSON.
fn json(command: &Command) -> Value {
    match command {
        Command::PollMirror(command) => serde_json::to_value(command),
        Command::ScanImage(command) => serde_json::to_value(command),
        Command::JudgeImage(command) => serde_json::to_value(command),
        Command::PruneRepositories(command) => serde_json::to_value(command),
        Command::DeliverEvent(command) => serde_json::to_value(command),
        Command::Reconcile(command) => serde_json::to_value(command),
        Command::MirrorTag(command) => serde_json::to_value(command),
    }
    .unwrap()
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
