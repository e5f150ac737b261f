//! A YAML document as a tree: every key and value with its line, and scalars as written, so that `1.10` stays a tag.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Options, Spanned};

use crate::Error;

/// The maximum size of a file, in bytes.
const MAX_BYTES: usize = 4 << 20;

/// A value and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) line: usize,
    pub(crate) value: Value,
}

/// A scalar, sequence or mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: usize,
    pub(crate) node: Node,
}

impl Node {
    /// Parses a document.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_BYTES {
            return Err(Error::new(1, "the file is larger than 4 MiB"));
        }
        let raw: Spanned<Raw> =
            serde_saphyr::from_str_with_options(text, options()).map_err(|error| {
                let line = error.location().map_or(1, line);
                // The message of the parser may quote the file, and with it a secret.
                Error::new(line, "invalid YAML")
            })?;
        let lines: Vec<&str> = text.lines().collect();
        Ok(Self::of(raw, &lines))
    }

    fn of(raw: Spanned<Raw>, lines: &[&str]) -> Self {
        let value = match raw.value {
            Raw::Null => Value::Null,
            Raw::Text(text) => Value::Text(text),
            Raw::Scalar(read) => Value::Text(source_text(raw.defined, lines).unwrap_or(read)),
            Raw::List(items) => Value::List(
                items
                    .into_iter()
                    .map(|item| Self::of(item, lines))
                    .collect(),
            ),
            Raw::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, node)| Entry {
                        line: line(key.referenced),
                        key: match key.value {
                            Raw::Text(text) => text,
                            Raw::Scalar(read) => source_text(key.defined, lines).unwrap_or(read),
                            _ => String::new(),
                        },
                        node: Self::of(node, lines),
                    })
                    .collect(),
            ),
        };
        Self {
            line: line(raw.referenced),
            value,
        }
    }

    /// Returns the text of a scalar that is not empty.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// Returns the items of a sequence; any other value counts as a sequence of one.
    pub(crate) fn items(&self) -> Vec<&Self> {
        match &self.value {
            Value::Null => Vec::new(),
            Value::List(items) => items.iter().collect(),
            Value::Text(_) | Value::Map(_) => vec![self],
        }
    }

    /// Returns the entries of a mapping, none for other values.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Returns the value of a key.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let entry = self.entries().iter().find(|entry| entry.key == key)?;
        Some(&entry.node)
    }

    /// Returns the text of a key.
    pub(crate) fn text_of(&self, key: &str) -> Option<&str> {
        self.get(key)?.text()
    }
}

fn line(location: Location) -> usize {
    usize::try_from(location.line()).unwrap_or(1).max(1)
}

/// Returns a plain scalar as it stands in the file.
fn source_text(location: Location, lines: &[&str]) -> Option<String> {
    let line = lines.get(line(location) - 1)?;
    let column = usize::try_from(location.column()).ok()?.checked_sub(1)?;
    let ends = |c: &char| c.is_whitespace() || matches!(c, ',' | ']' | '}');
    let text: String = line.chars().skip(column).take_while(|c| !ends(c)).collect();
    // A key is followed by its colon.
    let text = text.trim_end_matches(':').to_owned();
    (!text.is_empty()).then_some(text)
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 200_000, max_aliases: 100, max_anchors: 100, max_depth: 32, max_nodes: 100_000, max_documents: 1
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false
    }
}

#[derive(Debug)]
enum Raw {
    Null,
    Text(String),
    /// A number or a boolean, which may look different in the file.
    Scalar(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.to_string()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Raw, E> {
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Raw, E> {
        Ok(Raw::Text(text))
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_digits_and_every_node_has_its_line() {
        let text =
            "a:\n  - 1.10\n  - \"1.20\"\n  - 3\n  - true\nb: {c: 0010, d: [1.0, x]}\n1.30: ~\n";
        let node = Node::parse(text).unwrap();
        let list: Vec<_> = node.get("a").unwrap().items();
        let texts: Vec<_> = list.iter().filter_map(|item| item.text()).collect();
        assert_eq!(texts, ["1.10", "1.20", "3", "true"]);
        assert_eq!(list[2].line, 4);
        let b = node.get("b").unwrap();
        assert_eq!(b.text_of("c"), Some("0010"));
        assert_eq!(b.get("d").unwrap().items()[0].text(), Some("1.0"));
        assert_eq!(node.get("1.30").unwrap().value, Value::Null);
        assert_eq!(node.entries()[2].line, 7);
    }

    #[test]
    fn invalid_yaml_is_reported_with_its_line_and_without_its_text() {
        let error = Node::parse("a: 1\nb: [secret\n").unwrap_err().to_string();
        assert!(
            error.starts_with("line ") && !error.contains("secret"),
            "{error}"
        );
    }
}
