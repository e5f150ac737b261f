//! Shows what services logged where a test failed.

use std::fs;
use std::path::Path;

/// Where services log to; the ends of that are shown if it is left by a panic.
pub(crate) struct Logs<'a>(pub(crate) &'a Path);

impl Drop for Logs<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for entry in fs::read_dir(self.0).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|end| end == "log") {
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<_> = text.lines().rev().take(25).collect();
                eprintln!("--- {}", entry.path().display());
                lines.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}
