//! Images and indexes drawn at random: honest parts, put together in ways in which they need not fit.
//!
//! What is in layers and documents byte by byte is drawn elsewhere; here it is which of them belong together, what is
//! written of each, and what only calls itself a statement.

pub mod attachments;

use std::sync::LazyLock;

use base64::Engine as _;
use serde_json::{Value, json};

use super::archive::Archive;
use super::image::{Bundle, CONFIG, DOCKER_GZIP, Document, INDEX, Layer, MANIFEST, digest};
use super::image::{TAR, TAR_GZIP, TAR_ZSTD};
use super::packing::{gzip, skippable, zstd};
use super::{CLEAN, VULNERABLE, only, system_with};
use crate::seeded_random::SeededRandom;

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// The media type of a statement.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";
/// A statement.
pub const STATEMENT: &str = r#"{"_type":"https://in-toto.io/Statement/v0.1","subject":[],"predicateType":"https://slsa.dev/provenance/v0.2","predicate":{}}"#;

/// Types that layers are given whatever they are.
const LAYER_TYPES: [&str; 14] = [
    TAR,
    TAR_GZIP,
    TAR_ZSTD,
    DOCKER_GZIP,
    IN_TOTO,
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
    "application/vnd.oci.image.layer.v1.TAR+gzip",
    "application/vnd.oci.image.layer.v1.erofs",
    "application/octet-stream",
    "application/vnd.oci.empty.v1+json",
    "",
];
const CONFIG_TYPES: [&str; 5] = [
    DOCKER_CONFIG,
    "application/vnd.oci.empty.v1+json",
    "application/vnd.cncf.helm.config.v1+json",
    "application/octet-stream",
    IN_TOTO,
];
const CHILD_TYPES: [&str; 5] = [
    INDEX,
    DOCKER_MANIFEST,
    "application/octet-stream",
    CONFIG,
    "application/vnd.oci.artifact.manifest.v1+json",
];
/// Annotations by which some client takes another child, another layer, or another view of it.
const NOTES: [(&str, &str); 7] = [
    ("vnd.docker.reference.type", "attestation-manifest"),
    ("io.github.containers.compression.zstd", "true"),
    ("containerd.io/snapshot/nydus-bootstrap", "true"),
    ("containerd.io/snapshot/stargz/toc.digest", "sha256:0"),
    (
        "io.github.containers.zstd-chunked.manifest-position",
        "1:2:3:1",
    ),
    ("com.amazon.soci.index-digest", "sha256:0"),
    ("org.opencontainers.image.title", "x"),
];

/// Archives, as layers in every packing that clients take.
static LAYERS: LazyLock<Vec<Layer>> = LazyLock::new(|| {
    let archives = [
        system_with(CLEAN),
        system_with(VULNERABLE),
        only(CLEAN),
        only(VULNERABLE),
        Archive::default().file("opt/app/program", "x").finish(),
        Archive::default()
            .file("etc/.wh.debian_version", "")
            .finish(),
    ];
    let packed = |archive: Vec<u8>| {
        let members = archive.chunks(700).flat_map(gzip).collect();
        [
            Layer::gzip(&archive),
            Layer::new(DOCKER_GZIP, members, &archive),
            Layer::new(TAR_ZSTD, zstd(&archive), &archive),
            Layer::new(TAR, archive.clone(), &archive),
        ]
    };
    archives.into_iter().flat_map(packed).collect()
});

/// What stands in the place of statements: two are some, the others can be unpacked in one way or another.
static STATEMENTS: LazyLock<Vec<Layer>> = LazyLock::new(|| {
    let archive = only(VULNERABLE);
    let (text, both) = (STATEMENT.as_bytes(), statement_and_header());
    let envelope =
        r#"{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[]}"#;
    let layer = |blob: Vec<u8>, unpacked: &[u8]| Layer::new(IN_TOTO, blob, unpacked);
    let raw = |blob: Vec<u8>| Layer::new(IN_TOTO, blob.clone(), &blob);
    let hidden = [skippable(text), zstd(&archive)].concat();
    vec![
        raw(text.to_vec()),
        raw(envelope.into()),
        layer(gzip(&archive), &archive),
        raw(archive.clone()),
        layer(hidden, &archive),
        layer(zstd(&archive), &archive),
        raw([text, &archive].concat()),
        raw(both.clone()),
        raw([both, archive.clone()].concat()),
        Layer::gzip(&archive),
        Layer::new(IN_TOTO, gzip(text), text),
    ]
});

/// Makes a statement whose bytes are the header of an empty file, too: tar in its first form has no magic.
pub fn statement_and_header() -> Vec<u8> {
    let mut text = br#"{"_type":"https://in-toto.io/Statement/v1","x":""#.to_vec();
    text.resize(100, b'/');
    text.extend(b"0000644 0000000 0000000 00000000000 00000000000         0");
    text.resize(510, b' ');
    text.extend(b"\"}");
    let sum: u32 = text.iter().map(|byte| u32::from(*byte)).sum();
    text.splice(148..156, format!("{sum:06o}  ").bytes());
    text
}

/// Draws an image or an index with all that it reaches.
pub fn image(random: &mut SeededRandom) -> Bundle {
    if random.percent(15) {
        return plain(random);
    }
    index(random, 0)
}

fn plain(random: &mut SeededRandom) -> Bundle {
    let layers = (0..=random.below(3)).map(|_| random.pick(&LAYERS));
    let layers: Vec<Layer> = layers.collect();
    let mut config = json!({
        "os": "linux", "config": {},
        "architecture": random.pick(&["amd64", "amd64", "arm64", "386", "unknown", ""]),
        "rootfs": { "type": "layers", "diff_ids": diff_ids(random, &layers) },
    });
    if random.percent(4) {
        config["os"] = random.pick(&[json!("unknown"), json!("windows"), Value::Null]);
    }
    manifest(random, &config, layers)
}

/// Draws what is called an attestation; often it is one.
fn statement(random: &mut SeededRandom) -> Bundle {
    let layers = (0..=random.below(2)).map(|_| {
        let honest = random.below(2);
        let any = random.below(STATEMENTS.len());
        let layer = if random.percent(70) { honest } else { any };
        STATEMENTS[layer].clone()
    });
    let layers: Vec<Layer> = layers.collect();
    let unknown = json!({ "architecture": "unknown", "os": "unknown" });
    let others = [
        json!({ "architecture": "amd64", "os": "linux" }),
        json!({ "architecture": "unknown", "os": "linux" }),
        json!({ "architecture": "Unknown", "os": "Unknown" }),
        json!({}),
    ];
    let mut config = if random.percent(75) {
        unknown
    } else {
        random.pick(&others)
    };
    config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids(random, &layers) });
    manifest(random, &config, layers)
}

fn diff_ids(random: &mut SeededRandom, layers: &[Layer]) -> Vec<String> {
    let mut ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
    match random.below(40) {
        0 => drop(ids.pop()),
        1 => ids.push(random.pick(&LAYERS).diff_id),
        2 => ids.reverse(),
        3 => ids.fill(LAYERS[0].diff_id.clone()),
        4 => ids.clear(),
        _ => {}
    }
    ids
}

fn manifest(random: &mut SeededRandom, config: &Value, layers: Vec<Layer>) -> Bundle {
    let config = config.to_string().into_bytes();
    let config_type = if random.percent(5) {
        random.pick(&CONFIG_TYPES)
    } else {
        CONFIG
    };
    let mut descriptors = vec![json!({
        "mediaType": config_type, "digest": digest(&config), "size": config.len()
    })];
    for layer in &layers {
        let mut descriptor = layer.descriptor.clone();
        if random.percent(5) {
            descriptor["mediaType"] = json!(random.pick(&LAYER_TYPES));
        }
        descriptors.push(descriptor);
    }
    let mut blobs: Vec<Vec<u8>> = vec![config];
    blobs.extend(layers.into_iter().map(|layer| layer.blob));
    for (descriptor, blob) in descriptors.iter_mut().zip(&blobs) {
        alter(random, descriptor, blob);
    }
    let config = descriptors.remove(0);
    let media_type = random.pick(&[MANIFEST, MANIFEST, MANIFEST, DOCKER_MANIFEST]);
    let mut document = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": descriptors
    });
    match random.below(60) {
        0 => document["subject"] = STATEMENTS[0].descriptor.clone(),
        1 => document["artifactType"] = json!("application/vnd.amazon.soci.index.v1+json"),
        2 => document["annotations"] = note(random),
        3 => document["manifests"] = json!([]),
        4 => document["mediaType"] = json!(random.pick(&CHILD_TYPES)),
        5..15 => drop(document.as_object_mut().unwrap().remove("mediaType")),
        _ => {}
    }
    let document = Document {
        media_type,
        bytes: document.to_string().into_bytes(),
    };
    Bundle {
        blobs,
        documents: vec![document],
    }
}

fn note(random: &mut SeededRandom) -> Value {
    let (key, value) = random.pick(&NOTES);
    json!({ key: value })
}

/// Lets a descriptor say something else of what it names, now and then.
fn alter(random: &mut SeededRandom, descriptor: &mut Value, content: &[u8]) {
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    match random.below(120) {
        0 => descriptor["size"] = json!(content.len() + 1),
        1 => descriptor["size"] = json!(content.len().saturating_sub(1)),
        2 => descriptor["size"] = json!(0),
        3..6 => descriptor["data"] = json!(encode(content)),
        6 => descriptor["data"] = json!(encode(&LAYERS[4].blob)),
        7 => descriptor["urls"] = json!(["http://127.0.0.1:9/x"]),
        8 => descriptor["urls"] = json!([]),
        9..11 => descriptor["annotations"] = note(random),
        11 => descriptor["artifactType"] = json!(IN_TOTO),
        _ => {}
    }
}

fn index(random: &mut SeededRandom, depth: usize) -> Bundle {
    let mut children: Vec<(Bundle, Value)> = Vec::new();
    for _ in 0..random.below(5) {
        children.push(child(random, depth, &children));
    }
    let mut index = Bundle::index(children);
    let top = index.documents.last_mut().unwrap();
    let mut document: Value = serde_json::from_slice(&top.bytes).unwrap();
    match random.below(60) {
        0 => document["subject"] = LAYERS[0].descriptor.clone(),
        1 => document["layers"] = json!([LAYERS[0].descriptor]),
        2 => document["mediaType"] = json!(MANIFEST),
        3 => document["artifactType"] = json!(IN_TOTO),
        4 => document["annotations"] = note(random),
        5..10 => drop(document.as_object_mut().unwrap().remove("mediaType")),
        10..20 => {
            document["mediaType"] = json!(DOCKER_LIST);
            top.media_type = DOCKER_LIST;
        }
        _ => {}
    }
    top.bytes = document.to_string().into_bytes();
    index
}

/// Draws a child and what its descriptor says beside digest, size and type.
fn child(random: &mut SeededRandom, depth: usize, before: &[(Bundle, Value)]) -> (Bundle, Value) {
    let (child, is_statement) = match random.below(100) {
        0..15 if !before.is_empty() => (random.pick(before).0, random.percent(30)),
        15..19 if depth < 2 => (index(random, depth + 1), random.percent(30)),
        19..45 => (statement(random), random.percent(90)),
        _ => (plain(random), random.percent(5)),
    };
    let mut more = json!({});
    if is_statement {
        more["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
        more["annotations"] = json!({ NOTES[0].0: NOTES[0].1 });
    } else if let Some(platform) = platform(random) {
        more["platform"] = platform;
    }
    if random.percent(6) {
        more["annotations"] = note(random);
    }
    let top = child.top();
    let mut descriptor = top.descriptor();
    alter(random, &mut descriptor, &top.bytes);
    let altered = descriptor.as_object().unwrap().clone();
    let mut members = more.as_object().unwrap().clone();
    members.extend(altered);
    if random.percent(3) {
        members.insert("mediaType".to_owned(), json!(random.pick(&CHILD_TYPES)));
    }
    (child, Value::Object(members))
}

fn platform(random: &mut SeededRandom) -> Option<Value> {
    let of = |os: &str, architecture: &str| json!({ "os": os, "architecture": architecture });
    let with = |key: &str, value: &str| {
        let mut platform = of("linux", "amd64");
        platform[key] = json!(value);
        platform
    };
    let arm = |variant: &str| json!({ "os": "linux", "architecture": "arm", "variant": variant });
    Some(match random.below(24) {
        0..2 => return None,
        2..9 => of("linux", "amd64"),
        9..13 => of("linux", "arm64"),
        13 => of("linux", "386"),
        14 => of("linux", "x86_64"),
        15 => of("Linux", "AMD64"),
        16 => of("", ""),
        17 => with("variant", "v1"),
        18 => with("variant", "v2"),
        19 => with("os.version", "1"),
        20 => arm("v7"),
        21 => arm("v5"),
        22 => of("unknown", "unknown"),
        _ => of("unknown", "amd64"),
    })
}
