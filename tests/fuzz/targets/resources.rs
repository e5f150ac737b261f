//! What people write and what the bucket holds: resources in YAML and in JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_domain::resources::{Kind, Resource, parse_documents};

fuzz_target!(|text: &str| {
    let lines = text.lines().count() + 1;
    match parse_documents(text) {
        Ok(read) => {
            for document in read {
                let (kind, json) = (
                    document.resource.kind(),
                    document.resource.to_json().unwrap(),
                );
                assert_eq!(Resource::from_json(kind, &json).unwrap(), document.resource);
            }
        }
        Err(problems) => {
            for problem in problems {
                assert!((1..=lines).contains(&problem.line), "{problem}");
                assert!(!problem.message.contains(char::is_control), "{problem}");
            }
        }
    }
    for kind in Kind::ALL {
        if let Ok(read) = Resource::from_json(kind, text) {
            let json = read.to_json().unwrap();
            assert_eq!(Resource::from_json(kind, &json).unwrap(), read);
        }
    }
});
