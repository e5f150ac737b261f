//! Patterns of names, which are compiled, and so take a thousand times as long as names do.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_domain::{NameRegex, Pattern};

fuzz_target!(|text: &str| {
    if let Ok(pattern) = text.parse::<Pattern>() {
        let _ = pattern.matches("hub/alpine");
        assert_eq!(pattern.as_str(), text);
    }
    let _ = text.parse::<NameRegex>();
});
