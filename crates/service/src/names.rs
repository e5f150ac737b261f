//! Names that are there as long as somebody holds them: running tasks, and what readiness waits for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The names; clones are the same ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names(Arc<Mutex<BTreeMap<u64, String>>>);

/// Keeps a name there until it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Held {
    names: Names,
    number: u64,
}

impl Names {
    pub(crate) fn hold(&self, name: String) -> Held {
        let mut names = self.lock();
        let number = names.last_key_value().map_or(0, |(last, _)| last + 1);
        names.insert(number, name);
        Held {
            names: self.clone(),
            number,
        }
    }

    /// Returns the names, the oldest first.
    pub(crate) fn list(&self) -> Vec<String> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, String>> {
        // Nothing panics while it is held, and a name more or less is no reason to.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.names.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_there_as_often_as_it_is_held() {
        let names = Names::default();
        let first = names.hold("a".to_owned());
        let second = names.hold("a".to_owned());
        let third = names.hold("b".to_owned());
        drop(first);
        assert_eq!(names.list(), ["a", "b"]);
        drop(third);
        drop(second);
        assert!(names.list().is_empty());
    }
}
