//! Decodes notifications of a registry about pushes, pulls and deletions.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let registry = "registry.internal".parse().unwrap();
    for event in sluice_gateway::decode_events(data, &registry) {
        let subject = event.subject();
        assert!(!subject.contains(['*', '>', ' ', '\n']), "{subject}");
        assert!(
            subject.split('.').all(|token| !token.is_empty()),
            "{subject}"
        );
        // It is decoded as it was encoded.
        let decoded = sluice_events::Event::decode(event.type_name(), &event.encode());
        assert_eq!(decoded.unwrap().unwrap(), event);
    }
});
