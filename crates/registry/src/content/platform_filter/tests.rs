//! Filtered indexes: what they have, what they say, and that they are the same each time.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

fn digest(number: usize) -> String {
    format!("sha256:{number:064x}")
}

fn child(number: usize, platform: &str) -> Value {
    let parts: Vec<&str> = platform.split('/').collect();
    let mut named = json!({ "architecture": parts[1], "os": parts[0], "os.version": "10.0.1" });
    if let Some(variant) = parts.get(2) {
        named["variant"] = json!(variant);
    }
    json!({ "mediaType": IMAGE, "digest": digest(number), "size": 7, "platform": named, "x-kept": [1, 2] })
}

fn attestation(number: usize, subject: usize) -> Value {
    json!({
        "mediaType": IMAGE, "digest": digest(number), "size": 7,
        "platform": { "architecture": "unknown", "os": "unknown" },
        "annotations": {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": digest(subject),
        },
    })
}

fn index(children: &[Value]) -> Manifest {
    let document = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children, "annotations": { "b": "1" } });
    let raw = serde_json::to_string_pretty(&document).unwrap();
    Manifest::parse("x", INDEX, raw.into()).unwrap()
}

fn only(list: &[&str]) -> PlatformFilter {
    serde_json::from_value(json!(list)).unwrap()
}

fn children(manifest: &Manifest) -> Vec<Value> {
    let document: Value = serde_json::from_slice(&manifest.raw).unwrap();
    document["manifests"].as_array().unwrap().clone()
}

#[test]
fn a_part_has_what_is_wanted_with_its_attestations_and_says_what_it_is_a_part_of() {
    let all = [
        child(1, "linux/amd64"),
        child(2, "linux/arm64/v8"),
        child(3, "windows/amd64"),
        attestation(4, 1),
        attestation(5, 2),
    ];
    let whole = index(&all);
    let part = whole.filter_platforms(&only(&["linux/amd64"])).unwrap();
    assert_eq!(children(&part), [all[0].clone(), all[3].clone()]);
    assert_eq!(part.filtered_from(), Some(whole.digest.clone()));
    assert_eq!(part.media_type, INDEX);
    let raw = String::from_utf8(part.raw.to_vec()).unwrap();
    let expected = format!(
        r#"{{"annotations":{{"b":"1","dev.sluice.platforms":"linux/amd64","dev.sluice.source-digest":"{}"}},"manifests":["#,
        whole.digest
    );
    assert!(raw.starts_with(&expected), "{raw}");
    assert_eq!(whole.filtered_from(), None);
    for (wanted, is_part) in [(&["linux/amd64"][..], true), (&["linux/arm64"], false)] {
        assert_eq!(part.is_filtered_from(&whole.digest, &only(wanted)), is_part);
        assert!(!whole.is_filtered_from(&whole.digest, &only(wanted)));
        assert!(!part.is_filtered_from(&part.digest.clone(), &only(&["linux/s390x"])));
    }
}

#[test]
fn an_index_of_which_nothing_is_left_out_stays_as_it_is() {
    let whole = index(&[child(1, "linux/amd64"), attestation(4, 1)]);
    assert_eq!(
        whole.filter_platforms(&only(&["linux/amd64"])).unwrap(),
        whole
    );
    assert_eq!(whole.filter_platforms(&PlatformFilter::All).unwrap(), whole);
}

#[test]
fn an_index_without_any_of_them_is_an_error_that_names_what_it_has() {
    let whole = index(&[
        child(1, "linux/s390x"),
        child(2, "linux/arm64/v8"),
        attestation(3, 1),
    ]);
    let error = whole.filter_platforms(&only(&["linux/amd64"])).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("linux/amd64") && text.ends_with("linux/arm64/v8, linux/s390x"),
        "{text}"
    );
    use sluice_domain::{Class, Classify as _};
    assert!(matches!(error.class(), Class::Permanent));
}

#[test]
fn an_attestation_of_what_is_left_out_or_of_nothing_is_left_out() {
    let mut of_nothing = attestation(6, 1);
    of_nothing["annotations"]
        .as_object_mut()
        .unwrap()
        .remove(ATTESTED);
    let whole = index(&[child(1, "linux/amd64"), child(2, "linux/s390x"), of_nothing]);
    let part = whole.filter_platforms(&only(&["linux/amd64"])).unwrap();
    assert_eq!(children(&part), [child(1, "linux/amd64")]);
}

const SOME: [&str; 6] = [
    "linux/amd64",
    "linux/arm64/v8",
    "linux/arm/v7",
    "linux/arm/v6",
    "linux/s390x",
    "windows/amd64",
];

proptest! {
    #[test]
    fn a_part_is_the_same_each_time_and_leaves_what_it_keeps_untouched(
        has in prop::collection::vec((0..SOME.len(), any::<bool>()), 1..12),
        wants in prop::collection::btree_set(0..SOME.len(), 1..4),
    ) {
        let mut all = Vec::new();
        for (number, (platform, attested)) in has.iter().enumerate() {
            all.push(child(2 * number, SOME[*platform]));
            if *attested {
                all.push(attestation(2 * number + 1, 2 * number));
            }
        }
        let whole = index(&all);
        let names: Vec<&str> = wants.iter().map(|nth| SOME[*nth]).collect();
        let wanted = only(&names);
        let is_wanted = |nth: &usize| wants.contains(nth);
        match whole.filter_platforms(&wanted) {
            Err(_) => prop_assert!(!has.iter().any(|(platform, _)| is_wanted(platform))),
            Ok(part) => {
                prop_assert_eq!(&whole.filter_platforms(&wanted).unwrap(), &part);
                let expected: Vec<Value> = all
                    .iter()
                    .filter(|child| {
                        let number = child["digest"].as_str().unwrap().rsplit(':').next();
                        let number = usize::from_str_radix(number.unwrap(), 16).unwrap();
                        is_wanted(&has[number / 2].0)
                    })
                    .cloned()
                    .collect();
                prop_assert_eq!(children(&part), expected);
                if part.digest != whole.digest {
                    prop_assert_eq!(part.filtered_from(), Some(whole.digest));
                }
                // A part of the part is the part.
                prop_assert_eq!(part.filter_platforms(&wanted).unwrap(), part);
            }
        }
    }
}
