//! Valid, invalid and ambiguous documents.

use proptest::prelude::*;
use serde_json::Value;

use super::image_config::ImageConfig;
use super::*;

fn descriptor(name: &str) -> String {
    format!(
        r#"{{"mediaType":"{name}","digest":"sha256:{}","size":2}}"#,
        "0".repeat(64)
    )
}

#[test]
fn ambiguous_and_old_documents_are_refused() {
    let image = descriptor(OCI_MANIFEST);
    for (media_type, body) in [
        (
            OCI_INDEX,
            format!(r#"{{"schemaVersion":2,"manifests":[],"config":{image}}}"#),
        ),
        (
            OCI_MANIFEST,
            format!(r#"{{"schemaVersion":2,"config":{image},"layers":[],"manifests":[]}}"#),
        ),
        (
            OCI_MANIFEST,
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","config":{image},"layers":[]}}"#
            ),
        ),
        (
            OCI_MANIFEST,
            r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(),
        ),
        (
            "application/json",
            format!(r#"{{"schemaVersion":2,"config":{image},"layers":[]}}"#),
        ),
        (
            OCI_INDEX,
            r#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#.to_owned(),
        ),
    ] {
        assert!(
            Manifest::parse("x", media_type, body.clone().into()).is_err(),
            "{body}"
        );
    }
    for layers in ["", r#","layers":[]"#, r#","layers":null"#] {
        let good = format!(r#"{{"schemaVersion":2,"config":{image}{layers}}}"#);
        let read = Manifest::parse("x", OCI_MANIFEST, good.into()).unwrap();
        assert_eq!(read.blobs().count(), 1, "{layers}");
    }
}

/// A descriptor as a peer could write it, most often a good one.
fn any_descriptor() -> impl Strategy<Value = String> {
    let digest = prop_oneof![
        8 => "[0-9a-f]{64}".prop_map(|hex| format!("sha256:{hex}")),
        1 => "sha(256|512):[0-9a-fA-F./]{0,70}",
    ];
    let size = prop_oneof![
        4 => any::<u64>().prop_map(|size| size.to_string()),
        1 => "-?[0-9]{1,22}(\\.5|e9)?",
    ];
    let more = prop_oneof![
        6 => Just(String::new()),
        1 => "\\PC{0,9}".prop_map(|note| format!(",\"annotations\":{{{}:\"x\"}}", Value::from(note))),
        1 => "[a-z:/.0-9]{0,20}".prop_map(|url| format!(",\"urls\":[\"{url}\"]")),
        1 => "[A-Za-z.]{1,12}".prop_map(|key| format!(",\"{key}\":\"x\"")),
        1 => "(os|OS|architecture|variant)".prop_map(|key| format!(",\"platform\":{{\"{key}\":\"x\"}}")),
        1 => Just(",\"Digest\":\"x\"".to_owned()),
    ];
    ("[a-z/+.]{1,20}", digest, size, more).prop_map(|(kind, digest, size, more)| {
        format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}{more}}}"#)
    })
}

/// A document as a peer could write it: of the keys that mean something, any may be there, or twice, or in capitals.
fn any_document() -> impl Strategy<Value = String> {
    let list = || prop::collection::vec(any_descriptor(), 0..4).prop_map(|all| all.join(","));
    let member = prop_oneof![
        4 => Just("\"schemaVersion\":2".to_owned()),
        1 => any::<u32>().prop_map(|version| format!("\"schemaVersion\":{version}")),
        4 => any_descriptor().prop_map(|config| format!("\"config\":{config}")),
        4 => list().prop_map(|all| format!("\"layers\":[{all}]")),
        4 => list().prop_map(|all| format!("\"manifests\":[{all}]")),
        1 => list().prop_map(|all| format!("\"Layers\":[{all}]")),
        1 => any_descriptor().prop_map(|subject| format!("\"subject\":{subject}")),
        1 => Just("\"fsLayers\":[]".to_owned()),
        1 => Just(format!("\"mediaType\":\"{OCI_INDEX}\"")),
        1 => Just(format!("\"mediaType\":\"{OCI_MANIFEST}\"")),
    ];
    prop::collection::vec(member, 0..5).prop_map(|members| format!("{{{}}}", members.join(",")))
}

fn media_type() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        OCI_INDEX,
        OCI_MANIFEST,
        DOCKER_LIST,
        DOCKER_MANIFEST,
        "application/json",
    ])
}

/// Asserts what holds of every document that is accepted.
fn holds(media_type: &str, text: &[u8]) -> Result<bool, TestCaseError> {
    let Ok(manifest) = Manifest::parse("x", media_type, text.to_vec().into()) else {
        return Ok(false);
    };
    prop_assert_eq!(&manifest.raw[..], text);
    prop_assert_eq!(&manifest.digest, &digest_of(text));
    prop_assert_eq!(
        manifest.blobs().count() == 0 || manifest.children().is_empty(),
        true
    );
    prop_assert!(manifest.references() <= MAX_REFERENCES);
    // Whoever reads it as Go does finds the same in it: no key differs from one of ours by its case alone.
    let value: Value = serde_json::from_slice(text).unwrap();
    let keys = value.as_object().unwrap().keys();
    let ours = [
        "schemaVersion",
        "mediaType",
        "config",
        "layers",
        "manifests",
    ];
    for key in keys {
        let alike = ours.iter().find(|ours| ours.eq_ignore_ascii_case(key));
        prop_assert!(alike.is_none_or(|ours| ours == key), "{}", key);
    }
    let is_index = value.get("manifests").is_some();
    prop_assert!(!is_index || value.get("layers").is_none());
    prop_assert_eq!(is_index, matches!(manifest.content, Content::Index { .. }));
    if let Some(inner) = value.get("mediaType") {
        prop_assert_eq!(inner, media_type);
    }
    Ok(true)
}

proptest! {
    #[test]
    fn an_accepted_document_is_kept_byte_for_byte_and_read_in_one_way(media_type in media_type(), text in any_document()) {
        holds(media_type, text.as_bytes())?;
    }

    #[test]
    fn a_good_document_is_accepted_and_a_broken_one_is_not(layers in prop::collection::vec("[0-9a-f]{64}", 0..4), cut in any::<prop::sample::Index>(), junk in any::<u8>()) {
        let blob = |hex: &String| format!(r#"{{"mediaType":"l","digest":"sha256:{hex}","size":1}}"#);
        let layers: Vec<String> = layers.iter().map(blob).collect();
        let config = descriptor("c");
        let text = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#, layers.join(","));
        prop_assert!(holds(OCI_MANIFEST, text.as_bytes())?);
        let mut bytes = text.into_bytes();
        let place = cut.index(bytes.len());
        prop_assert!(!holds(OCI_MANIFEST, &bytes[..place])?);
        bytes[place] = junk;
        holds(OCI_MANIFEST, &bytes)?;
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), depth in 0..400_usize) {
        holds(OCI_INDEX, &bytes)?;
        holds(OCI_INDEX, format!("{{\"manifests\":{}", "[".repeat(depth)).as_bytes())?;
        holds(OCI_INDEX, format!("{{\"x\":{}", "{\"x\":".repeat(depth)).as_bytes())?;
        drop(serde_json::from_slice::<ImageConfig>(&bytes));
    }
}
