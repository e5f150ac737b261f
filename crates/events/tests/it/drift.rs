//! The generated code is what the protocol says; `UPDATE=1` rewrites it.

use std::fs;

use prost_types::FileDescriptorSet;

use crate::protocol::{PROTOCOL, messages, root, update};
use crate::structs;

#[test]
fn generated_code_matches_the_protocol() {
    let out = tempfile::tempdir().unwrap();
    let file = PROTOCOL.file_descriptor_protos().cloned().collect();
    prost_build::Config::new()
        .out_dir(out.path())
        .compile_fds(FileDescriptorSet { file })
        .unwrap();
    for name in ["sluice.events.v1.rs", "sluice.state.v1.rs"] {
        compare(name, &fs::read_to_string(out.path().join(name)).unwrap());
    }
    let facts = structs::generate(&messages("facts"), &messages("types"));
    compare("facts.rs", &facts.unwrap());
    let commands = structs::generate(&messages("commands"), &[]);
    compare("commands.rs", &commands.unwrap());
}

fn compare(name: &str, fresh: &str) {
    let committed = root().join("crates/events/src/gen").join(name);
    if update() {
        fs::write(&committed, fresh).unwrap();
    }
    let committed = fs::read_to_string(&committed).unwrap_or_default();
    assert!(
        committed == fresh,
        "{name} is not what the protocol says; run `UPDATE=1 cargo test -p sluice-events --test it`"
    );
}
