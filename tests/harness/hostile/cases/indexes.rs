//! Indexes of which clients take different children (the `i` rows): every child counts, whoever takes it.

use serde_json::{Value, json};

use super::super::image::{Bundle, CONFIG, Document, INDEX, Layer, MANIFEST};
use super::super::{VULNERABLE, only};
use super::{Case, Expected, clean, vulnerable};
use crate::hostile::image::digest;

fn platform(os: &str, architecture: &str) -> Value {
    json!({ "platform": { "os": os, "architecture": architecture } })
}

fn with(mut descriptor: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    descriptor.pointer_mut(parent).unwrap()[key] = value;
    descriptor
}

/// The rows with a vulnerable child that some client takes, and a clean one that others take.
pub(super) fn cases() -> Vec<Case> {
    let amd64 = || platform("linux", "amd64");
    let zstd = json!({ "io.github.containers.compression.zstd": "true" });
    let attestation = json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let nested = |image: Bundle| Bundle::index(vec![(image, amd64())]);
    // Each is the pair of descriptors in their order; the vulnerable child is once the first and once the second.
    let pairs: Vec<(&'static str, &'static str, Value, Value)> = vec![
        ("i01", "i01-turned", amd64(), amd64()),
        (
            "i02",
            "i02-turned",
            amd64(),
            with(amd64(), "/annotations", zstd),
        ),
        ("i03", "i03-turned", json!({}), amd64()),
        ("i04", "i04-turned", platform("linux", "x86_64"), amd64()),
        (
            "i05",
            "i05-turned",
            with(amd64(), "/platform/variant", json!("v2")),
            amd64(),
        ),
        (
            "i06b",
            "i06b-turned",
            with(amd64(), "/annotations", attestation.clone()),
            amd64(),
        ),
        (
            "i09",
            "i09-turned",
            with(amd64(), "/platform/os.version", json!("1")),
            amd64(),
        ),
        ("i11", "i11-turned", platform("Linux", "AMD64"), amd64()),
        ("i13", "i13-turned", platform("", ""), amd64()),
    ];
    let mut cases = Vec::new();
    for (id, turned, first, second) in pairs {
        let image =
            |a: Bundle, b: Bundle| Bundle::index(vec![(a, first.clone()), (b, second.clone())]);
        cases.push(Case::vulnerable(id, image(clean(id), vulnerable(id))));
        cases.push(Case::vulnerable(turned, image(vulnerable(id), clean(id))));
    }
    let unknown = || {
        with(
            platform("unknown", "unknown"),
            "/annotations",
            attestation.clone(),
        )
    };
    let beside =
        |child: Bundle, more: Value| Bundle::index(vec![(child, more), (clean("i06"), amd64())]);
    cases.extend([
        Case::vulnerable(
            "i05b",
            Bundle::index(vec![(
                vulnerable("i05b"),
                with(amd64(), "/platform/variant", json!("v1")),
            )]),
        ),
        Case::promoted(
            "i06",
            beside(
                statement(&json!({"architecture": "unknown", "os": "unknown"})),
                unknown(),
            ),
        ),
        Case::vulnerable("i06-image", beside(vulnerable("i06"), unknown())),
        // A statement to its index, and by its own configuration something to run.
        Case::refused(
            "i06-config",
            "",
            beside(
                statement(&json!({"architecture": "amd64", "os": "linux"})),
                unknown(),
            ),
        ),
        Case::refused("i06-archive", "", beside(archive_as_statement(), unknown())),
        Case::refused(
            "i07",
            "",
            Bundle::index(vec![
                (nested(vulnerable("i07")), json!({})),
                (clean("i07"), amd64()),
            ]),
        ),
        Case::refused(
            "i07b",
            "",
            Bundle::index(vec![(nested(clean("i07b")), amd64())]),
        ),
        Case::refused(
            "i07c",
            "",
            Bundle::index(vec![(nested(clean("i07c")), json!({}))]),
        ),
        Case::vulnerable(
            "i08",
            Bundle::index(vec![(vulnerable("i08"), platform("linux", "386"))]),
        ),
        Case::vulnerable("i12", wrong_type()),
        Case::refused("i14", "", Bundle::index(vec![])),
        Case::new("i15", duplicate_list(), Expected::Refused("")),
        Case::promoted(
            "i16",
            Bundle::index(vec![
                (clean("i16"), amd64()),
                (clean("i16 arm"), platform("linux", "arm64")),
            ]),
        ),
    ]);
    cases
}

/// A manifest with an in-toto statement, as BuildKit attaches it to an image.
fn statement(config: &Value) -> Bundle {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v0.1", "predicateType": "https://slsa.dev/provenance/v0.2",
        "subject": [{ "name": "x", "digest": { "sha256": "a".repeat(64) } }], "predicate": {},
    });
    let text = statement.to_string().into_bytes();
    attached(config, &text, &digest(&text))
}

/// The same with an archive where the statement should be.
fn archive_as_statement() -> Bundle {
    let blob = Layer::gzip(&only(VULNERABLE)).blob;
    let config = json!({ "architecture": "unknown", "os": "unknown" });
    attached(&config, &blob, &digest(&only(VULNERABLE)))
}

fn attached(config: &Value, content: &[u8], diff_id: &str) -> Bundle {
    let mut config = config.clone();
    config["config"] = json!({});
    config["rootfs"] = json!({ "type": "layers", "diff_ids": [diff_id] });
    let config = config.to_string().into_bytes();
    let layer = Layer::new("application/vnd.in-toto+json", content.to_vec(), content).with(
        "annotations",
        json!({ "in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2" }),
    );
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "digest": digest(&config), "size": config.len() },
        "layers": [layer.descriptor],
    });
    Bundle {
        blobs: vec![content.to_vec(), config],
        documents: vec![Document {
            media_type: MANIFEST,
            bytes: manifest.to_string().into_bytes(),
        }],
    }
}

/// An index whose first child is of a type that only some clients take for a manifest.
fn wrong_type() -> Bundle {
    let amd64 = || platform("linux", "amd64");
    Bundle::index(vec![(vulnerable("i12"), amd64()), (clean("i12"), amd64())]).rewritten(|text| {
        text.replacen(
            "\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\"",
            "\"mediaType\":\"application/octet-stream\"",
            1,
        )
    })
}

/// An index with two lists of children.
fn duplicate_list() -> Bundle {
    let amd64 = || platform("linux", "amd64");
    let (clean, evil) = (clean("i15"), vulnerable("i15"));
    let mut hidden = evil.top().descriptor();
    hidden["platform"] = amd64()["platform"].clone();
    let mut index = Bundle::index(vec![(clean, amd64())]);
    index.blobs.extend(evil.blobs);
    let top = index.documents.pop().unwrap();
    index.documents.extend(evil.documents);
    index.documents.push(Document {
        media_type: INDEX,
        ..top
    });
    index.rewritten(|text| {
        format!(
            "{},\"Manifests\":[{hidden}]}}",
            text.strip_suffix('}').unwrap()
        )
    })
}
