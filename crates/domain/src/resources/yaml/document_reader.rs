//! Reads one YAML document twice: first its keys, then its typed form, as often as it takes to find all problems.
//!
//! The typed form is streamed and never buffered, so every error keeps its line.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, Visitor,
};
use serde_saphyr::{Error, Options, Spanned};

use super::message::describe;
use crate::resources::kinds::ReadBody;

/// How many problems of one document are reported at once.
const MOST_PROBLEMS: usize = 10;

/// What is wrong, at a line of the document.
#[derive(Debug)]
pub(super) struct Fault {
    /// The line, from 1.
    pub(super) line: usize,
    /// What is wrong and what to do.
    pub(super) message: String,
}

/// The top-level keys of a document, in their order.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Each key with its line, from 1.
    pub(super) keys: Vec<(String, usize)>,
    /// The value of `kind`.
    pub(super) kind: Option<String>,
}

/// Reads the keys of a document.
pub(super) fn head(text: &str) -> Result<Head, Fault> {
    let reached = Cell::new(Place::Outside);
    read(text, HeadVisitor { reached: &reached })
        .map_err(|error| fault(&error, reached.get(), &["kind"]))
}

/// The keys of a document other than `kind`.
pub(super) struct DocumentBody<'a> {
    /// The text of the document.
    pub(super) text: &'a str,
    /// All its keys.
    pub(super) head: &'a Head,
}

impl ReadBody for DocumentBody<'_> {
    type Error = Vec<Fault>;

    fn read<T: DeserializeOwned>(&self) -> Result<T, Self::Error> {
        let Self { text, head } = *self;
        let names: Vec<&str> = head.keys.iter().map(|(name, _)| name.as_str()).collect();
        let mut skipped: BTreeSet<usize> = names
            .iter()
            .position(|name| *name == "kind")
            .into_iter()
            .collect();
        let mut faults = Vec::new();
        loop {
            let reached = Cell::new(Place::Outside);
            let visitor = BodyVisitor {
                skipped: &skipped,
                reached: &reached,
                value: PhantomData,
            };
            let error = match read(text, visitor) {
                Ok(value) if faults.is_empty() => return Ok(value),
                Ok(_) => return Err(faults),
                Err(error) => error,
            };
            match (&error, reached.get()) {
                (Error::SerdeMissingField { field, .. }, Place::Outside) => {
                    // A key that is left out because it is wrong is not missing.
                    if !names.contains(field) {
                        let line = head.keys.first().map_or(1, |(_, line)| *line);
                        let message = describe(&error);
                        faults.push(Fault { line, message });
                    }
                }
                (error, place) => faults.push(fault(error, place, &names)),
            }
            match reached.get() {
                Place::Key(index) | Place::Value(index) if faults.len() < MOST_PROBLEMS => {
                    skipped.insert(index);
                }
                _ => return Err(faults),
            }
        }
    }
}

fn fault(error: &Error, place: Place, names: &[&str]) -> Fault {
    let line = error.location().map_or(1, |location| location.line());
    let message = match place {
        Place::Value(index) => names.get(index).map_or_else(
            || describe(error),
            |name| format!("`{name}`: {}", describe(error)),
        ),
        Place::Outside | Place::Key(_) => describe(error),
    };
    Fault {
        line: usize::try_from(line).unwrap_or(1).max(1),
        message,
    }
}

fn read<'de, V: Visitor<'de>>(text: &'de str, visitor: V) -> Result<V::Value, Error> {
    serde_saphyr::with_deserializer_from_str_with_options(text, options(), |deserializer| {
        deserializer.deserialize_map(visitor)
    })
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 200_000, max_aliases: 100, max_anchors: 100, max_depth: 32, max_nodes: 100_000, max_documents: 2
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false
    }
}

/// Where in the top level of a document the reader is; keys are counted from 0.
#[derive(Debug, Clone, Copy)]
enum Place {
    Outside,
    Key(usize),
    Value(usize),
}

struct HeadVisitor<'a> {
    reached: &'a Cell<Place>,
}

impl<'de> Visitor<'de> for HeadVisitor<'_> {
    type Value = Head;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keys with values, as in `kind: Mirror`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Head, A::Error> {
        let mut head = Head::default();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            if key.value == "kind" {
                self.reached.set(Place::Value(0));
                head.kind = Some(map.next_value()?);
                self.reached.set(Place::Outside);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
            let line = usize::try_from(key.referenced.line()).unwrap_or(1);
            head.keys.push((key.value, line));
        }
        Ok(head)
    }
}

struct BodyVisitor<'a, T> {
    skipped: &'a BTreeSet<usize>,
    reached: &'a Cell<Place>,
    value: PhantomData<T>,
}

impl<'de, T: DeserializeOwned> Visitor<'de> for BodyVisitor<'_, T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keys with values")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(Selected {
            map,
            next: 0,
            skipped: self.skipped,
            reached: self.reached,
        }))
    }
}

/// A mapping without the skipped keys, which notes how far it was read.
struct Selected<'a, A> {
    map: A,
    next: usize,
    skipped: &'a BTreeSet<usize>,
    reached: &'a Cell<Place>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Selected<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Self::Error> {
        self.reached.set(Place::Outside);
        while self.skipped.contains(&self.next) {
            self.map.next_entry::<IgnoredAny, IgnoredAny>()?;
            self.next += 1;
        }
        self.reached.set(Place::Key(self.next));
        let key = self.map.next_key_seed(seed)?;
        if key.is_none() {
            self.reached.set(Place::Outside);
        }
        Ok(key)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(
        &mut self,
        seed: V,
    ) -> Result<V::Value, Self::Error> {
        self.reached.set(Place::Value(self.next));
        self.next += 1;
        self.map.next_value_seed(seed)
    }
}
