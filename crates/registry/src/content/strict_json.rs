//! Refuses JSON documents that other parsers would read in another way.
//!
//! Most registries and clients are written in Go, whose JSON reader takes `Layers` for `layers` and the last of two equal
//! keys. A document with both would be one image for a scanner and another for a client.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The keys that any reader of a kind of document gives a meaning to.
#[derive(Debug)]
pub(crate) struct Keys {
    known: &'static [&'static str],
    /// Those whose values are such objects again, or lists of them.
    objects: &'static [&'static str],
}

/// The keys of manifests, indexes, descriptors and platforms.
pub(crate) const MANIFEST: Keys = Keys {
    known: &[
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
    ],
    objects: &[
        "blobs",
        "config",
        "layers",
        "manifests",
        "platform",
        "subject",
    ],
};

/// The keys of image configurations, as far as they say what an image is, how it is started, and for what it is.
pub(crate) const CONFIG: Keys = Keys {
    known: &[
        "architecture",
        "config",
        "created",
        "diff_ids",
        "history",
        "os",
        "os.features",
        "os.version",
        "rootfs",
        "type",
        "variant",
        // In `config`:
        "Cmd",
        "Entrypoint",
        "Env",
        "Labels",
        "User",
        "WorkingDir",
    ],
    objects: &["config", "rootfs"],
};

/// Checks that every key of a document is in its exact form, and there once.
pub(crate) fn check(keys: &'static Keys, raw: &[u8]) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(raw);
    Strict(keys).deserialize(&mut deserializer)?;
    deserializer.end()
}

/// A value that is read for its keys alone.
#[derive(Clone, Copy)]
struct Strict(&'static Keys);

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = Vec::new();
        while let Some(key) = map.next_key::<Key<'de>>()? {
            let key = key.0;
            let Some(known) = self.0.known.iter().find(|known| is_same(known, &key)) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if *known != key {
                let message = format!("some readers take another key for `{known}`");
                return Err(A::Error::custom(message));
            }
            if seen.contains(&known) {
                return Err(A::Error::custom(format!("`{known}` is there twice")));
            }
            seen.push(known);
            if self.0.objects.contains(known) {
                map.next_value_seed(self)?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
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
        check(&MANIFEST, text.as_bytes()).is_ok()
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
    fn keys_of_a_configuration_that_go_takes_for_ours_are_refused() {
        for text in [
            r#"{"rootfs":{"type":"layers"},"RootFS":{"type":"layers"}}"#,
            r#"{"rootfs":{"diff_ids":[],"Diff_IDs":[]}}"#,
            r#"{"rootfs":{"diff_ids":[],"diff_ids":[]}}"#,
            r#"{"architecture":"a","Architecture":"b"}"#,
            r#"{"config":{"Labels":{},"labels":{}}}"#,
            r#"{"history":[],"history":[]}"#,
            r#"{"os":"linux"} {"os":"linux"}"#,
            r#"{"os":"linux"}x"#,
        ] {
            assert!(check(&CONFIG, text.as_bytes()).is_err(), "{text}");
        }
        let good = r#"{"created":"x","config":{"Labels":{"a":"b","A":"c"},"Env":["A=b"]},"rootfs":{"type":"layers","diff_ids":["x"]},
            "history":[{"created":"y","CREATED":"z"}],"container_config":{"Labels":null},"config_digest":1} "#;
        check(&CONFIG, good.as_bytes()).unwrap();
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
