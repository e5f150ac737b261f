//! The generated code is what the protocol and the table of events say; `UPDATE=1` rewrites it.

use std::fs;

use prost_types::FileDescriptorSet;

use crate::protocol::{PROTOCOL, messages, root, update};
use crate::{event_lists, structs};

#[test]
fn generated_code_matches_the_protocol() {
    let out = tempfile::tempdir().unwrap();
    let file = PROTOCOL.file_descriptor_protos().cloned().collect();
    prost_build::Config::new()
        .out_dir(out.path())
        .compile_fds(FileDescriptorSet { file })
        .unwrap();
    for name in ["sluice.events.v1.rs", "sluice.state.v1.rs"] {
        compare(
            &format!("events/src/gen/{name}"),
            &fs::read_to_string(out.path().join(name)).unwrap(),
        );
    }
    let facts = structs::generate(&messages("facts"), &messages("types"));
    compare("events/src/gen/facts.rs", &facts.unwrap());
    let commands = structs::generate(&messages("commands"), &[]);
    compare("events/src/gen/commands.rs", &commands.unwrap());
}

#[test]
fn generated_lists_match_the_table_of_events() {
    compare("domain/src/gen/events.rs", &event_lists::generate());
}

/// Compares a generated file of a crate.
fn compare(name: &str, fresh: &str) {
    let committed = root().join("crates").join(name);
    if update() {
        fs::write(&committed, fresh).unwrap();
    }
    let committed = fs::read_to_string(&committed).unwrap_or_default();
    assert!(
        committed == fresh,
        "{name} is not what is declared; run `UPDATE=1 cargo test -p sluice-events --test it`"
    );
}
