//! The names of what is active in a process: running tasks, and readiness latches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The active names; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ActiveNames(Arc<Mutex<BTreeMap<u64, String>>>);

/// Keeps a name active until it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct ActiveName {
    names: ActiveNames,
    number: u64,
}

impl ActiveNames {
    pub(crate) fn add(&self, name: String) -> ActiveName {
        let mut names = self.lock();
        let number = names.last_key_value().map_or(0, |(last, _)| last + 1);
        names.insert(number, name);
        ActiveName {
            names: self.clone(),
            number,
        }
    }

    /// Returns the names, the oldest first.
    pub(crate) fn list(&self) -> Vec<String> {
        self.lock().values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, String>> {
        // No code panics while it is locked, and a wrong list of names is no reason to panic here.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ActiveName {
    fn drop(&mut self) {
        self.names.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_listed_as_often_as_it_was_added() {
        let names = ActiveNames::default();
        let first = names.add("a".to_owned());
        let second = names.add("a".to_owned());
        let third = names.add("b".to_owned());
        drop(first);
        assert_eq!(names.list(), ["a", "b"]);
        drop(third);
        drop(second);
        assert!(names.list().is_empty());
    }
}
