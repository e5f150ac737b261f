//! Payloads of messages on the bus: the first byte says of which type.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_events::{Command, Event, Message};

fuzz_target!(|data: &[u8]| {
    let Some((first, payload)) = data.split_first() else {
        return;
    };
    let facts = Event::TYPES.iter().map(|fact| fact.type_name);
    let types: Vec<&str> = facts.chain(Command::TYPES.iter().copied()).collect();
    let name = types[usize::from(*first) % types.len()];
    let Ok(message) = Message::decode(name, payload) else {
        return;
    };
    let bytes = match &message {
        Message::Event(event) => {
            let subject = event.subject();
            assert!(!subject.contains(['*', '>', ' ', '\r', '\n']), "{subject}");
            assert!(
                subject.split('.').all(|token| !token.is_empty()),
                "{subject}"
            );
            event.encode()
        }
        Message::Command(command) => command.encode(),
    };
    assert_eq!(Message::decode(name, &bytes).unwrap(), message);
});
