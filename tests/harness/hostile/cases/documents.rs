//! Manifests and configurations that readers understand differently (the `j` rows).

use serde_json::json;

use super::super::image::{Layer, Spec};
use super::super::{CLEAN, VULNERABLE, only, system_with};
use super::{Case, Expected, base};
use crate::hostile::Bundle;

pub(super) fn cases() -> Vec<Case> {
    let mut cases = manifests();
    cases.extend(descriptors());
    cases.extend(configurations());
    cases
}

/// An image of a clean system, and the list of layers that a vulnerable one over it has; both are pushed.
fn two_lists() -> (Bundle, String) {
    let (clean, evil) = (base(), Layer::gzip(&only(VULNERABLE)));
    let hidden = json!([clean.descriptor, evil.descriptor]).to_string();
    let mut image = Spec::of(vec![clean]).build();
    image.blobs.push(evil.blob);
    (image, hidden)
}

/// Writes more keys before and after those of a manifest.
fn around(image: Bundle, before: &str, after: &str) -> Bundle {
    image.rewritten(|text| {
        let inner = text.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
        format!("{{{before}{inner}{after}}}")
    })
}

fn manifests() -> Vec<Case> {
    let (image, hidden) = two_lists();
    let with = |before: &str, after: &str| around(image.clone(), before, after);
    let plain = |note: &str| super::clean(note);
    vec![
        Case::refused("j01", "", with("", &format!(",\"layers\":{hidden}"))),
        Case::refused("j01-first", "", with(&format!("\"layers\":{hidden},"), "")),
        Case::refused("j02", "", with("", &format!(",\"LAYERS\":{hidden}"))),
        Case::refused("j03", "", with(&format!("\"Layers\":{hidden},"), "")),
        Case::refused(
            "j03-escaped",
            "",
            with("", &format!(",\"l\\u0061yers\":{hidden}")),
        ),
        // Long s, which folds to `s` where Go compares keys.
        Case::refused(
            "j03-folded",
            "",
            with("", &format!(",\"layer\u{17f}\":{hidden}")),
        ),
        Case::promoted(
            "j04",
            plain("j04").rewritten(|text| {
                text.replacen(
                    "\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",",
                    "",
                    1,
                )
            }),
        ),
        Case::new(
            "j05",
            plain("j05").rewritten(|text| text.replacen("image.manifest.v1", "image.index.v1", 1)),
            Expected::NotTaken,
        ),
        Case::new(
            "j06",
            around(plain("j06"), "", ",\"manifests\":[]"),
            Expected::NotTaken,
        ),
        Case::new(
            "j07",
            plain("j07").rewritten(|text| format!("{text}{{}}")),
            Expected::NotTaken,
        ),
    ]
}

fn descriptors() -> Vec<Case> {
    let layer = || {
        Layer::gzip(
            &super::super::system()
                .file(super::super::STATUS, CLEAN)
                .file("j08", "")
                .finish(),
        )
    };
    let data = |bytes: &[u8]| json!(base64(bytes));
    let one = |layer: Layer| Spec::of(vec![layer]).build();
    let genuine = layer().blob;
    let evil = Layer::gzip(&system_with(VULNERABLE)).blob;
    vec![
        Case::promoted("j08-true", one(layer().with("data", data(&genuine)))),
        Case::refused("j08", "", one(layer().with("data", data(&evil)))),
        Case::refused(
            "j08-text",
            "",
            one(layer().with("data", json!("not base64!"))),
        ),
    ]
}

fn configurations() -> Vec<Case> {
    let image = |note: &str| {
        let archive = super::super::system()
            .file(super::super::STATUS, CLEAN)
            .file("note", note);
        Spec::of(vec![Layer::gzip(&archive.finish())])
    };
    let other = json!({ "type": "layers", "diff_ids": [format!("sha256:{}", "a".repeat(64))] });
    let ending =
        |text: String, more: String| format!("{}{more}}}", text.strip_suffix('}').unwrap());
    vec![
        Case::refused(
            "j10",
            "",
            image("j10")
                .build_with(|config| ending(config.to_string(), format!(",\"RootFS\":{other}"))),
        ),
        Case::refused(
            "j10-twice",
            "",
            image("j10")
                .build_with(|config| ending(config.to_string(), format!(",\"rootfs\":{other}"))),
        ),
        Case::refused(
            "j11",
            "",
            image("j11").build_with(|config| format!("{config}{{}}")),
        ),
        Case::refused(
            "j12",
            "",
            image("j12").config("/rootfs/type", json!("files")).build(),
        ),
        Case::promoted(
            "j13",
            image("j13").config("/architecture", json!("arm64")).build(),
        ),
        Case::refused("j14", "", image("j14").build_with(|_| "[]".to_owned())),
        Case::refused(
            "j15",
            "",
            image("j15").build_with(|config| config.to_string().replace("linux", "\\ud800")),
        ),
    ]
}

/// Writes bytes as JSON holds them in `data`.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..chunk.len()].copy_from_slice(chunk);
        let number = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for digit in 0..4 {
            let value = (number >> (18 - 6 * digit)) & 63;
            let is_filling = digit > chunk.len();
            text.push(if is_filling {
                '='
            } else {
                char::from(DIGITS[value as usize])
            });
        }
    }
    text
}
