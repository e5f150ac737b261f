//! Refuses documents that other readers would read in another way.
//!
//! Most registries and clients are written in Go, whose JSON reader takes `Layers` for `layers` and the last of two equal
//! keys. A document with both would be one image to whoever judges it and another to whoever runs it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The keys of manifests, indexes, descriptors and platforms that any reader gives a meaning to.
const KEYS: [&str; 21] = [
    "annotations",
    "architecture",
    "artifactType",
    "blobs",
    "config",
    "data",
    "digest",
    "features",
    "fsLayers",
    "layers",
    "manifests",
    "mediaType",
    "os",
    "os.features",
    "os.version",
    "platform",
    "schemaVersion",
    "size",
    "subject",
    "urls",
    "variant",
];
/// Those whose values are such objects again, or lists of them.
const OBJECTS: [&str; 6] = [
    "blobs",
    "config",
    "layers",
    "manifests",
    "platform",
    "subject",
];

/// A value in which every key is written as it should be, and once; it is read for that alone.
pub(crate) struct Strict;

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Look)
    }
}

struct Look;

impl<'de> Visitor<'de> for Look {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
        let mut seen = [false; KEYS.len()];
        while let Some(key) = map.next_key::<Key<'de>>()? {
            let key = key.0;
            let known = KEYS
                .iter()
                .zip(&mut seen)
                .find(|(known, _)| is_same(known, &key));
            let Some((known, seen)) = known else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if *known != key {
                let told = format!("some readers take another key for `{known}`");
                return Err(A::Error::custom(told));
            }
            if std::mem::replace(seen, true) {
                return Err(A::Error::custom(format!("`{known}` is there twice")));
            }
            if OBJECTS.contains(known) {
                map.next_value::<Strict>()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Strict)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Strict, A::Error> {
        while list.next_element::<Strict>()?.is_some() {}
        Ok(Strict)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_str<E>(self, _: &str) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict)
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// Compares as Go does: ASCII without regard to case, and the two other letters that fold to one of ASCII.
fn is_same(known: &str, key: &str) -> bool {
    let folded = key.chars().map(|sign| match sign {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    });
    known
        .chars()
        .map(|sign| sign.to_ascii_lowercase())
        .eq(folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_strict(text: &str) -> bool {
        serde_json::from_str::<Strict>(text).is_ok()
    }

    #[test]
    fn keys_that_go_takes_for_ours_are_refused() {
        for text in [
            r#"{"layers":[],"Layers":[]}"#,
            r#"{"LAYERS":[]}"#,
            r#"{"layer\u017f":[]}"#,
            r#"{"layers":[{"digest":"a","DIGEST":"b"}]}"#,
            r#"{"config":{"Size":1}}"#,
            r#"{"manifests":[{"platform":{"os":"a","OS":"b"}}]}"#,
            r#"{"subject":{"mediatype":"x"}}"#,
            r#"{"layers":[],"layers":[]}"#,
            r#"{"artifactType":"a","artifactType":"b"}"#,
        ] {
            assert!(!is_strict(text), "{text}");
        }
    }

    #[test]
    fn keys_without_a_meaning_are_free() {
        for text in [
            r#"{"layers":[],"config":{},"annotations":{"Size":"1","size":"2"},"x":{"Layers":[]}}"#,
            r#"{"x":1,"x":2}"#,
            r#"[1,-1,1.5,null,true,"x",{"layers":[1]}]"#,
        ] {
            assert!(is_strict(text), "{text}");
        }
    }
}
