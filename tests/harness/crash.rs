//! Lets services die at named points, and says where they died.

use std::fs;
use std::path::Path;

use crate::Stack;

impl Stack {
    /// Returns the variables that let a process die at a point, as in `tags.claimed:2`.
    pub fn death(&self, at: &str) -> Vec<(&'static str, String)> {
        let mark = self.folder().join("mark");
        fs::remove_file(&mark).ok();
        vec![
            ("SLUICE_CRASH_AT", at.to_owned()),
            ("SLUICE_CRASH_MARK", mark.to_str().unwrap().to_owned()),
        ]
    }

    /// Starts a service that dies at a point, without waiting for it; returns its place.
    pub fn begin_dying(&mut self, name: &str, at: &str, environment: &[(&str, &str)]) -> usize {
        let death = self.death(at);
        let mut variables: Vec<(&str, &str)> = environment.to_vec();
        variables.extend(death.iter().map(|(key, value)| (*key, value.as_str())));
        self.begin(name, &variables)
    }

    /// Waits until a service that was to die at a point has died, and asserts that it died there.
    pub fn until_dead(&mut self, number: usize, at: &str) {
        self.wait_until_dead(number);
        died_there(self.folder(), at);
    }
}

/// Asserts that the process that was to die at a point has died there.
pub fn died_there(folder: &Path, at: &str) {
    let place = at.split([':', '=']).next().unwrap();
    let mark = fs::read_to_string(folder.join("mark")).unwrap_or_else(|_| {
        panic!(
            "it died before it came to `{at}`, or its binary has no such points; \
             `cargo build --workspace --bins` builds those that have"
        )
    });
    assert_eq!(mark, place);
}
