//! Payloads that no Sluice wrote: whoever may publish may write any bytes.

use proptest::prelude::*;
use sluice_events::{Event, Message};

use crate::samples::{COMPLETE, RELEASED, Sample};

/// What is done to the bytes of a good message.
#[derive(Debug, Clone)]
enum Change {
    Put(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(place, byte)| Change::Put(place, byte)),
        any::<usize>().prop_map(Change::Cut),
        (any::<usize>(), prop::collection::vec(any::<u8>(), 1..12))
            .prop_map(|(place, bytes)| Change::Insert(place, bytes)),
    ]
}

fn encoded(message: &Message) -> (&'static str, Vec<u8>) {
    match message {
        Message::Event(event) => (event.type_name(), event.encode()),
        Message::Command(command) => (command.type_name(), command.encode()),
    }
}

/// Asserts what holds of every payload that is accepted.
fn holds(type_name: &str, payload: &[u8]) -> Result<(), TestCaseError> {
    let Ok(message) = Message::decode(type_name, payload) else {
        return Ok(());
    };
    // What is passed on means the same again, and its subject has no place that another subject could be in.
    let (name, bytes) = encoded(&message);
    prop_assert_eq!(name, type_name);
    prop_assert_eq!(Message::decode(name, &bytes).unwrap(), message.clone());
    if let Message::Event(event) = &message {
        let subject = event.subject();
        prop_assert!(
            !subject.contains(['*', '>', ' ', '\r', '\n']),
            "{}",
            subject
        );
        prop_assert!(
            subject.split('.').all(|token| !token.is_empty()),
            "{}",
            subject
        );
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_changed_payload_is_refused_or_means_the_same_to_everybody(which in any::<prop::sample::Index>(), changes in prop::collection::vec(change(), 0..4)) {
        let all: Vec<&Sample> = RELEASED.iter().chain(&*COMPLETE).collect();
        let sample = which.get(&all);
        let (name, mut bytes) = (sample.type_name, sample.payload.clone());
        for change in changes {
            let length = bytes.len().max(1);
            match change {
                Change::Put(place, byte) => if let Some(old) = bytes.get_mut(place % length) { *old = byte },
                Change::Cut(place) => bytes.truncate(place % length),
                Change::Insert(place, new) => {
                    let place = (place % length).min(bytes.len());
                    bytes.splice(place..place, new);
                }
            }
        }
        holds(name, &bytes)?;
    }

    #[test]
    fn no_payload_makes_the_reader_panic(which in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 0..100), name in "[a-zA-Z0-9.]{0,40}") {
        let known = which.get(Event::TYPES).type_name;
        holds(known, &bytes)?;
        prop_assert!(Message::decode(&name, &bytes).is_err());
    }
}
