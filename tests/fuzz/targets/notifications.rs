//! What a registry tells the gateway of pushes, pulls and deletions.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let registry = "registry.internal".parse().unwrap();
    for fact in sluice_gateway::facts_of(data, &registry) {
        let subject = fact.subject();
        assert!(!subject.contains(['*', '>', ' ', '\n']), "{subject}");
        assert!(
            subject.split('.').all(|token| !token.is_empty()),
            "{subject}"
        );
        // It reaches whoever listens as it was told.
        let read = sluice_events::Event::decode(fact.type_name(), &fact.encode());
        assert_eq!(read.unwrap().unwrap(), fact);
    }
});
