//! The generated code is what the protocol says; `UPDATE=1` rewrites it.

use std::fs;

use crate::protocol::{compile, root, update};

#[test]
fn generated_code_matches_the_protocol() {
    let out = tempfile::tempdir().unwrap();
    prost_build::Config::new()
        .out_dir(out.path())
        .compile_fds(compile())
        .unwrap();
    for name in ["sluice.events.v1.rs", "sluice.state.v1.rs"] {
        let fresh = fs::read_to_string(out.path().join(name)).unwrap();
        let committed = root().join("crates/events/src/gen").join(name);
        if update() {
            fs::write(&committed, &fresh).unwrap();
        }
        let committed = fs::read_to_string(&committed).unwrap_or_default();
        assert!(
            committed == fresh,
            "{name} is not what the protocol says; run `UPDATE=1 cargo test -p sluice-events --test it`"
        );
    }
}
