//! Lets services die at named points, and says where they died.

use std::fs;
use std::path::Path;

use crate::Stack;
use crate::scanner::kill;
use crate::stack::command;

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

    /// Runs the command, which must die at a point.
    pub fn sluice_dying(&self, at: &str, arguments: &[&str]) {
        let death = self.death(at);
        let output = command(&self.nats, &self.keys, arguments)
            .envs(death)
            .output()
            .unwrap();
        assert!(!output.status.success(), "it did not die at `{at}`");
        died_there(self.folder(), at);
    }

    /// Kills the scanners that adapters of this stack have started and left behind when they died.
    fn kill_leftovers(&self) {
        let theirs = self.folder().join("trivy");
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let told = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let is_theirs = String::from_utf8_lossy(&told).contains(theirs.to_str().unwrap());
            if let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
                && is_theirs
            {
                kill(id);
            }
        }
    }

    /// Waits until a service that was to die at a point has died, and asserts that it died there.
    pub fn until_dead(&mut self, number: usize, at: &str) {
        self.wait_until_dead(number);
        self.kill_leftovers();
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
