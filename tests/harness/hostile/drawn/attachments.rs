//! What is attached to images, drawn at random, with what is known of each: whether it is what it claims to be.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::{IN_TOTO, LAYERS, STATEMENT, plain, statement_and_header};
use crate::hostile::image::{
    Bundle, CONFIG, DOCKER_GZIP, Document, MANIFEST, TAR, TAR_GZIP, digest,
};
use crate::hostile::packing::{gzip, skippable, zstd};
use crate::hostile::{VULNERABLE, only};
use crate::seeded_random::SeededRandom;

const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const SOCI: &str = "application/vnd.amazon.soci.index.v1+json";
const ENVELOPE: &str =
    r#"{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"sig":"x"}]}"#;
/// How the tags of what is attached end; without an ending it is a list of referrers.
const ENDINGS: [&str; 4] = ["", ".sig", ".att", ".sbom"];

/// Something drawn, and what of it may enter a target.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// Its documents and blobs; what is listed comes before the list.
    pub bundle: Bundle,
    /// The tag under which it lies.
    pub tag: String,
    /// The manifests in it that are what they claim, and of a list refer to what its tag names.
    pub honest: BTreeSet<String>,
}

/// Media types, and the forms of which a blob may be that claims one.
const KINDS: [(&str, &[&str]); 22] = [
    (
        "application/vnd.dev.cosign.simplesigning.v1+json",
        &["cosign"],
    ),
    ("application/vnd.dsse.envelope.v1+json", &["envelope"]),
    (IN_TOTO, &["statement", "envelope"]),
    (
        "application/vnd.in-toto.spdx+json",
        &["statement", "envelope"],
    ),
    ("application/vnd.dev.sigstore.bundle.v0.3+json", &["bundle"]),
    (
        "application/vnd.dev.sigstore.bundle+json;version=0.2",
        &["bundle"],
    ),
    ("application/spdx+json", &["spdx"]),
    ("text/spdx+json", &["spdx"]),
    ("text/spdx", &["spdx", "spdx tags"]),
    ("application/vnd.cyclonedx", &["cyclonedx", "cyclonedx xml"]),
    ("application/vnd.cyclonedx+json", &["cyclonedx"]),
    ("application/vnd.cyclonedx+xml", &["cyclonedx xml"]),
    ("application/jose+json", &["jws"]),
    ("application/cose", &["cose"]),
    (EMPTY, &["empty"]),
    (TAR_GZIP, &[]),
    (TAR, &[]),
    (DOCKER_GZIP, &[]),
    ("application/octet-stream", &[]),
    ("application/vnd.oci.image.layer.v1.erofs", &[]),
    ("application/vnd.in-toto.layer.v1.tar+gzip", &[]),
    ("application/json", &[]),
];

/// Blobs, and the form of each; those without one could be unpacked, or are nothing.
static CONTENTS: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| {
    let archive = only(VULNERABLE);
    let xml = r#"<?xml version="1.0"?><bom xmlns="http://cyclonedx.org/schema/bom/1.5"></bom>"#;
    let spdx = r#"{"spdxVersion":"SPDX-2.3"}"#;
    let at = |offset: usize, magic: &[u8]| [&vec![b' '; offset], magic, &[0; 600]].concat();
    let of = |form: &'static str, content: &str| (form, content.as_bytes().to_vec());
    let mut contents = vec![
        of(
            "cosign",
            r#"{"critical":{"type":"cosign container image signature"}}"#,
        ),
        of("envelope", ENVELOPE),
        of("statement", STATEMENT),
        of(
            "bundle",
            r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}"#,
        ),
        of("spdx", spdx),
        of("spdx tags", "SPDXVersion: SPDX-2.3\nDataLicense: CC0-1.0\n"),
        of(
            "cyclonedx",
            r#"{"bomFormat":"CycloneDX","specVersion":"1.5"}"#,
        ),
        of("cyclonedx xml", xml),
        of(
            "jws",
            r#"{"payload":"e30","protected":"e30","signature":"e30"}"#,
        ),
        ("cose", vec![0xd2, 0x84, 0x40, 0xa0, 0x40, 0x40]),
        of("empty", "{}"),
    ];
    let hostile = [
        gzip(&archive),
        archive.clone(),
        zstd(&archive),
        [skippable(STATEMENT.as_bytes()), zstd(&archive)].concat(),
        statement_and_header(),
        [statement_and_header(), archive.clone()].concat(),
        [STATEMENT.as_bytes(), &archive].concat(),
        [spdx.as_bytes(), &gzip(&archive)].concat(),
        gzip(STATEMENT.as_bytes()),
        [&[0xd2, 0x84, 0x40, 0xa0, 0x40, 0x40][..], &archive].concat(),
        at(0, b"BZh91AY&SY"),
        at(0, b"\xfd7zXZ\0"),
        at(0, b"hsqs"),
        at(0, b"PK\x03\x04"),
        at(1_024, b"\xe2\xe1\xf5\xe0"),
        format!("{xml}\0").into_bytes(),
        format!("SPDXVersion: SPDX-2.3\n\0{spdx}").into_bytes(),
        STATEMENT.as_bytes()[..40].to_vec(),
        Vec::new(),
    ];
    contents.extend(hostile.map(|content| ("", content)));
    contents
});

/// Configurations: media type, content, and whether that goes with something attached.
static CONFIGS: LazyLock<Vec<(&str, Vec<u8>, bool)>> = LazyLock::new(|| {
    let unknown =
        r#"{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let image = r#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    [
        (EMPTY, "{}", true),
        (CONFIG, "{}", true),
        (CONFIG, unknown, true),
        ("application/vnd.cncf.notary.signature", "{}", true),
        (EMPTY, image, false),
        (CONFIG, image, false),
        (CONFIG, "{} x", false),
        (CONFIG, "\u{1f}\u{8b}", false),
        ("application/vnd.cncf.helm.config.v1+json", "{}", false),
        (SOCI, "{}", false),
    ]
    .map(|(kind, content, is_fine)| (kind, content.as_bytes().to_vec(), is_fine))
    .to_vec()
});

/// Draws something attached to a manifest.
pub fn attachment(random: &mut SeededRandom) -> Attachment {
    let subject = LAYERS[random.below(2)].diff_id.clone();
    let ending = random.pick(&ENDINGS);
    let tag = subject.replace(':', "-") + ending;
    let mut honest = BTreeSet::new();
    let mut one = |random: &mut SeededRandom| {
        if random.percent(8) {
            return plain(random);
        }
        let (bundle, is_honest) = referrer(random, (ending.is_empty()).then_some(&subject));
        if is_honest {
            honest.insert(bundle.digest());
        }
        bundle
    };
    // Lists where something else is expected, and the other way round.
    let is_list = ending.is_empty() != random.percent(5);
    let bundle = if is_list {
        let children = (0..random.below(4)).map(|_| (one(random), json!({})));
        Bundle::index(children.collect())
    } else {
        one(random)
    };
    Attachment {
        bundle,
        tag,
        honest,
    }
}

/// Draws a manifest, and says whether it is what it claims, and of a list, whether it refers to the subject.
fn referrer(random: &mut SeededRandom, subject: Option<&String>) -> (Bundle, bool) {
    let (config_type, config, mut is_honest) = if random.percent(85) {
        random.pick(&CONFIGS[..4])
    } else {
        random.pick(&CONFIGS)
    };
    let describe = |kind: &str, blob: &[u8]| json!({ "mediaType": kind, "digest": digest(blob), "size": blob.len() });
    let (mut blobs, mut layers) = (Vec::new(), Vec::new());
    for _ in 0..random.below(3) {
        let (form, content) = random.pick(&CONTENTS);
        let fitting: Vec<_> = KINDS.iter().filter(|kind| kind.1.contains(&form)).collect();
        let (kind, forms) = if fitting.is_empty() || random.percent(15) {
            random.pick(&KINDS)
        } else {
            *random.pick(&fitting)
        };
        let mut layer = describe(kind, &content);
        is_honest &= forms.contains(&form);
        if random.percent(2) {
            layer["urls"] = json!(["http://127.0.0.1:9/x"]);
            is_honest = false;
        }
        layers.push(layer);
        blobs.push(content);
    }
    let mut document = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": describe(config_type, &config), "layers": layers
    });
    blobs.push(config);
    match random.below(20) {
        0 => {
            document["artifactType"] = json!(SOCI);
            is_honest = false;
        }
        1..8 => document["artifactType"] = json!(IN_TOTO),
        _ => {}
    }
    let named = match random.below(20) {
        0 => None,
        1 => Some(LAYERS[4].diff_id.clone()),
        _ => Some(
            subject
                .cloned()
                .unwrap_or_else(|| LAYERS[0].diff_id.clone()),
        ),
    };
    is_honest &= subject.is_none() || named.as_ref() == subject;
    if let Some(digest) = named {
        document["subject"] = json!({ "mediaType": MANIFEST, "digest": digest, "size": 2 });
    }
    let document: Value = document;
    let top = Document {
        media_type: MANIFEST,
        bytes: document.to_string().into_bytes(),
    };
    let bundle = Bundle {
        blobs,
        documents: vec![top],
    };
    (bundle, is_honest)
}
