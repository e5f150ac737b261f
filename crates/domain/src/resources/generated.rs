//! Stored resources that no Sluice wrote: whoever may write the bucket may write any text.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::documents::documents;
use super::{EXAMPLES, Kind, Resource};

/// The stored form of an example of each kind.
static STORED: LazyLock<Vec<(Kind, String)>> = LazyLock::new(|| {
    let written = documents(EXAMPLES).unwrap().into_iter();
    written
        .map(|document| {
            let json = document.resource.to_json().unwrap();
            (document.resource.kind(), json)
        })
        .collect()
});

proptest! {
    #[test]
    fn what_is_read_of_a_changed_resource_is_stored_as_it_was_read(which in any::<prop::sample::Index>(), place in any::<prop::sample::Index>(), length in 0..9_usize, junk in "([a-z0-9*/:.{}\\[\\]\",-]|\\PC){0,6}") {
        let (kind, json) = which.get(&STORED);
        prop_assert!(Resource::from_json(*kind, json).is_ok());
        let characters: Vec<char> = json.chars().collect();
        let from = place.index(characters.len());
        let to = (from + length).min(characters.len());
        let changed: String = characters[..from].iter().copied().chain(junk.chars()).chain(characters[to..].iter().copied()).collect();
        if let Ok(read) = Resource::from_json(*kind, &changed) {
            prop_assert_eq!(Resource::from_json(*kind, &read.to_json().unwrap()).unwrap(), read);
        }
    }
}
