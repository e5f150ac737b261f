//! Ten thousand generated documents: what is accepted is one thing to every reader.
//!
//! The reference readers do what clients do: Go's `encoding/json` takes keys in any case (with Unicode's folding) and merges
//! a key that comes again, most others take the last of equal keys, some the first.

use std::fmt;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sluice_registry::{Content, Descriptor, ImageConfig, Manifest};

const DOCUMENTS: u32 = 10_000;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A JSON value with every key as it is written, in its order.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Object(Vec<(String, Node)>),
    List(Vec<Node>),
    Text(String),
    Other,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Nodes;
        impl<'de> Visitor<'de> for Nodes {
            type Value = Node;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("JSON")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Node::Object(members))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Node::List(items))
            }

            fn visit_str<E>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Text(text.to_owned()))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
                Ok(Node::Other)
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Other)
            }
        }
        deserializer.deserialize_any(Nodes)
    }
}

/// Which of several members with a key a reader takes.
#[derive(Debug, Clone, Copy)]
enum Reader {
    Go,
    Last,
    First,
}

impl Reader {
    const ALL: [Self; 3] = [Self::Go, Self::Last, Self::First];

    fn member<'a>(self, node: &'a Node, key: &str) -> Option<&'a Node> {
        let Node::Object(members) = node else {
            return None;
        };
        let is_it = |(name, _): &&(String, Node)| match self {
            Self::Go => folded(name) == folded(key),
            Self::Last | Self::First => name == key,
        };
        let mut found = members.iter().filter(is_it);
        let member = match self {
            Self::First => found.next(),
            Self::Go | Self::Last => found.next_back(),
        };
        member.map(|(_, value)| value)
    }

    fn text(self, node: &Node, key: &str) -> Option<String> {
        match self.member(node, key)? {
            Node::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    fn list(self, node: &Node, key: &str) -> Vec<Node> {
        match self.member(node, key) {
            Some(Node::List(items)) => items.clone(),
            _ => Vec::new(),
        }
    }

    /// Returns what a document refers to: configuration, layers, children.
    fn read(self, node: &Node) -> References {
        let described = |node: &Node| (self.text(node, "mediaType"), self.text(node, "digest"));
        let all = |key| self.list(node, key).iter().map(described).collect();
        References {
            config: self.member(node, "config").map(described),
            layers: all("layers"),
            children: all("manifests"),
        }
    }
}

/// Folds a key as Go does: `ſ` is an `s`, and the sign of Kelvin a `k`.
fn folded(key: &str) -> String {
    key.chars()
        .map(|letter| match letter {
            'ſ' => 's',
            '\u{212a}' => 'k',
            other => other.to_ascii_lowercase(),
        })
        .collect()
}

type Described = (Option<String>, Option<String>);

#[derive(Debug, PartialEq, Eq)]
struct References {
    config: Option<Described>,
    layers: Vec<Described>,
    children: Vec<Described>,
}

impl References {
    fn of(manifest: &Manifest) -> Self {
        let described =
            |one: &Descriptor| (Some(one.media_type.clone()), Some(one.digest.to_string()));
        match &manifest.content {
            Content::Image { config, layers } => Self {
                config: Some(described(config)),
                layers: layers.iter().map(described).collect(),
                children: Vec::new(),
            },
            Content::Index { children } => Self {
                config: None,
                layers: Vec::new(),
                children: children.iter().map(described).collect(),
            },
        }
    }
}

/// Writes a key as it should be, most often, or as some reader takes it for the same.
fn spelled(key: &'static str) -> impl Strategy<Value = String> {
    prop_oneof![
        14 => Just(key.to_owned()),
        1 => Just(key.to_uppercase()),
        1 => Just(key.replacen('s', "ſ", 1)),
        1 => Just(format!("\\u{:04x}{}", u32::from(key.as_bytes()[0]), &key[1..])),
        1 => Just(format!("{key}\\u0000")),
    ]
}

fn descriptor() -> impl Strategy<Value = String> {
    let member = |key: &'static str, value: BoxedStrategy<String>| {
        (spelled(key), value).prop_map(|(key, value)| format!("\"{key}\":{value}"))
    };
    let kind = || prop_oneof![Just("\"a/b\"".to_owned()), Just("\"a/c\"".to_owned())].boxed();
    let digest = || "[01]".prop_map(|digit| format!("\"sha256:{}\"", digit.repeat(64)));
    let again = prop_oneof![
        12 => Just(String::new()),
        1 => member("digest", digest().boxed()).prop_map(|member| format!(",{member}")),
        1 => member("mediaType", kind()).prop_map(|member| format!(",{member}")),
        1 => Just(",\"annotations\":{\"digest\":\"x\"}".to_owned()),
    ];
    (
        member("mediaType", kind()),
        member("digest", digest().boxed()),
        again,
    )
        .prop_map(|(kind, digest, again)| format!("{{{kind},{digest},\"size\":2{again}}}"))
}

/// A document of known and of doubled members, in any order.
fn document() -> impl Strategy<Value = (bool, String)> {
    let member = |key: &'static str, value: BoxedStrategy<String>| {
        (spelled(key), value).prop_map(|(key, value)| format!("\"{key}\":{value}"))
    };
    let list = || {
        prop::collection::vec(descriptor(), 0..3)
            .prop_map(|all| format!("[{}]", all.join(",")))
            .boxed()
    };
    let image = (
        member("config", descriptor().boxed()),
        member("layers", list()),
    )
        .prop_map(|(config, layers)| vec![config, layers]);
    let index = member("manifests", list()).prop_map(|children| vec![children]);
    let more = prop_oneof![
        10 => Just(None),
        1 => member("layers", list()).prop_map(Some),
        1 => member("manifests", list()).prop_map(Some),
        1 => member("config", descriptor().boxed()).prop_map(Some),
        1 => member("subject", descriptor().boxed()).prop_map(Some),
        1 => Just(Some("\"annotations\":{\"layers\":\"x\"}".to_owned())),
    ];
    let is_index = any::<bool>();
    (is_index, image, index, more, any::<bool>()).prop_map(
        |(is_index, image, index, more, first)| {
            let mut members = if is_index { index } else { image };
            members.push("\"schemaVersion\":2".to_owned());
            if let Some(more) = more {
                members.insert(if first { 0 } else { members.len() }, more);
            }
            (is_index, format!("{{{}}}", members.join(",")))
        },
    )
}

fn config() -> impl Strategy<Value = String> {
    let ids = || {
        prop::collection::vec("[01]".prop_map(|digit| digit.repeat(64)), 0..3).prop_map(|ids| {
            let ids: Vec<String> = ids.iter().map(|id| format!("\"sha256:{id}\"")).collect();
            format!("[{}]", ids.join(","))
        })
    };
    let rootfs = || {
        (spelled("diff_ids"), ids())
            .prop_map(|(key, ids)| format!("{{\"type\":\"layers\",\"{key}\":{ids}}}"))
    };
    let member =
        || (spelled("rootfs"), rootfs()).prop_map(|(key, value)| format!("\"{key}\":{value}"));
    let more = prop_oneof![4 => Just(None), 1 => member().prop_map(Some)];
    (member(), more).prop_map(|(rootfs, more)| {
        let more = more.map_or(String::new(), |more| format!(",{more}"));
        format!("{{\"os\":\"linux\",{rootfs}{more}}}")
    })
}

/// Returns the contents of layers that a reader finds in a configuration.
fn diff_ids(reader: Reader, node: &Node) -> Vec<String> {
    let Some(rootfs) = reader.member(node, "rootfs") else {
        return Vec::new();
    };
    let ids = reader.list(rootfs, "diff_ids");
    ids.into_iter()
        .filter_map(|id| match id {
            Node::Text(id) => Some(id),
            _ => None,
        })
        .collect()
}

fn run<S: Strategy>(strategy: &S, check: impl Fn(S::Value) -> bool) -> (u32, u32) {
    let mut runner = TestRunner::new(Config {
        cases: DOCUMENTS.max(Config::default().cases),
        failure_persistence: None,
        ..Config::default()
    });
    let (accepted, refused) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    runner
        .run(strategy, |document| {
            let count = if check(document) { &accepted } else { &refused };
            count.set(count.get() + 1);
            Ok(())
        })
        .unwrap();
    (accepted.get(), refused.get())
}

#[test]
fn a_manifest_that_is_accepted_refers_to_the_same_for_every_reader() {
    let differing = std::cell::Cell::new(0);
    let (accepted, refused) = run(&document(), |(is_index, text)| {
        let node: Node = serde_json::from_str(&text).unwrap();
        let readings = Reader::ALL.map(|reader| reader.read(&node));
        let media_type = if is_index { INDEX } else { MANIFEST };
        let Ok(manifest) = Manifest::parse("x", media_type, text.clone().into()) else {
            let differ = readings.iter().any(|reading| *reading != readings[0]);
            differing.set(differing.get() + u32::from(differ));
            return false;
        };
        let ours = References::of(&manifest);
        for (reader, reading) in Reader::ALL.iter().zip(readings) {
            assert_eq!(reading, ours, "{reader:?}: {text}");
        }
        true
    });
    // The test is worth something only if much passes, and much is read in different ways.
    assert!(accepted > DOCUMENTS / 10, "{accepted}");
    assert!(refused > DOCUMENTS / 10, "{refused}");
    assert!(differing.get() > DOCUMENTS / 40, "{}", differing.get());
}

#[test]
fn a_configuration_that_is_accepted_names_the_same_layers_for_every_reader() {
    let (accepted, refused) = run(&config(), |text| {
        let node: Node = serde_json::from_str(&text).unwrap();
        let Ok(config) = ImageConfig::parse("x", text.as_bytes()) else {
            return false;
        };
        let ours = config.rootfs.map(|rootfs| rootfs.diff_ids);
        for reader in Reader::ALL {
            assert_eq!(
                diff_ids(reader, &node),
                ours.clone().unwrap_or_default(),
                "{text}"
            );
        }
        true
    });
    assert!(
        accepted > DOCUMENTS / 10 && refused > DOCUMENTS / 10,
        "{accepted} {refused}"
    );
}
