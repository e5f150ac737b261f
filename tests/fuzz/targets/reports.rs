//! Reports of the scanner.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // There cannot be more findings than there is room for in the report, and another image's are never taken.
    if let Some(found) = sluice_scanner_adapter::findings_of(data, "sha256:c0", &[]) {
        assert!(usize::try_from(found).unwrap() <= data.len());
        assert_eq!(sluice_scanner_adapter::findings_of(data, "sha256:c1", &[]), None);
    }
});
