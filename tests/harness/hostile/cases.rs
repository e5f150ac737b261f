//! The cases: each an image, and what the gate must say of it.

mod archives;
mod contents;
mod documents;
mod indexes;
mod streams;
mod types;

pub use contents::{ENTRY_LIMIT, UNPACKED_LIMIT};

use super::image::{Bundle, Layer, Spec};
use super::{CLEAN, VULNERABLE, system_with};

/// What the gate must say of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// It is scanned, nothing is found, and it is promoted: every client reads it in one way.
    Promoted,
    /// It is scanned as clients read it, and what is found in it keeps it out.
    Vulnerable,
    /// It is not supported, for a reason that has these words.
    Refused(&'static str),
    /// The registry does not take it.
    NotTaken,
}

/// A case.
#[derive(Debug, Clone)]
pub struct Case {
    /// Its id in the table, which is the tag that it gets.
    pub id: &'static str,
    /// The image.
    pub image: Bundle,
    /// What the gate must say.
    pub expected: Expected,
    /// Whether it counts only once the cases before it were scanned.
    pub is_later: bool,
}

impl Case {
    fn new(id: &'static str, image: Bundle, expected: Expected) -> Self {
        Self {
            id,
            image,
            expected,
            is_later: false,
        }
    }

    fn promoted(id: &'static str, image: Bundle) -> Self {
        Self::new(id, image, Expected::Promoted)
    }

    fn vulnerable(id: &'static str, image: Bundle) -> Self {
        Self::new(id, image, Expected::Vulnerable)
    }

    fn refused(id: &'static str, reason: &'static str, image: Bundle) -> Self {
        Self::new(id, image, Expected::Refused(reason))
    }

    fn later(mut self) -> Self {
        self.is_later = true;
        self
    }
}

/// Returns every case.
pub fn all() -> Vec<Case> {
    let mut cases = streams::cases();
    cases.extend(archives::cases());
    cases.extend(documents::cases());
    cases.extend(indexes::cases());
    cases.extend(types::cases());
    cases.extend(contents::cases());
    cases
}

/// Returns an image of a clean system, different for each note.
fn clean(note: &str) -> Bundle {
    noted(note, CLEAN)
}

/// Returns an image of a vulnerable system, different for each note.
fn vulnerable(note: &str) -> Bundle {
    noted(note, VULNERABLE)
}

fn noted(note: &str, status: &str) -> Bundle {
    let archive = super::system()
        .file(super::STATUS, status)
        .file("note", note);
    Spec::of(vec![Layer::gzip(&archive.finish())]).build()
}

/// Returns a layer of a clean system.
fn base() -> Layer {
    Layer::gzip(&system_with(CLEAN))
}
