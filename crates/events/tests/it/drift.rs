//! The generated code is what the protocol says; `UPDATE=1` rewrites it.

use std::fs;
use std::path::Path;

const FILES: [&str; 4] = [
    "sluice/events/v1/types.proto",
    "sluice/events/v1/facts.proto",
    "sluice/events/v1/commands.proto",
    "sluice/state/v1/state.proto",
];

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the switch of a developer's test run"
)]
fn generated_code_matches_the_protocol() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let protos = root.join("proto");
    let descriptors = protox::compile(FILES.map(|file| protos.join(file)), [&protos]).unwrap();
    let out = tempfile::tempdir().unwrap();
    prost_build::Config::new()
        .out_dir(out.path())
        .compile_fds(descriptors)
        .unwrap();
    for name in ["sluice.events.v1.rs", "sluice.state.v1.rs"] {
        let fresh = fs::read_to_string(out.path().join(name)).unwrap();
        let committed = root.join("crates/events/src/gen").join(name);
        if std::env::var("UPDATE").is_ok() {
            fs::write(&committed, &fresh).unwrap();
        }
        let committed = fs::read_to_string(&committed).unwrap_or_default();
        assert!(
            committed == fresh,
            "{name} is not what the protocol says; run `UPDATE=1 cargo test -p sluice-events --test it`"
        );
    }
}
