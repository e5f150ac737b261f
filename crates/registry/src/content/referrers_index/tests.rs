//! Indexes of referrers: what they say and what they keep.

use serde_json::json;

use super::*;

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

fn digest(number: usize) -> String {
    format!("sha256:{number:064x}")
}

fn manifest(document: &Value) -> Manifest {
    let media_type = document["mediaType"].as_str().unwrap();
    Manifest::parse("x", media_type, document.to_string().into()).unwrap()
}

fn referrer(number: usize, config: &str, more: &Value) -> Manifest {
    let mut document = json!({
        "schemaVersion": 2, "mediaType": IMAGE,
        "config": { "mediaType": config, "digest": digest(number), "size": 2 }, "layers": [],
        "subject": { "mediaType": IMAGE, "digest": digest(1), "size": 7 },
    });
    for (key, value) in more.as_object().unwrap() {
        document[key] = value.clone();
    }
    manifest(&document)
}

fn listed(list: &Manifest) -> Vec<Value> {
    let document: Value = serde_json::from_slice(&list.raw).unwrap();
    document["manifests"].as_array().unwrap().clone()
}

#[test]
fn a_list_says_of_a_referrer_what_that_says_of_itself() {
    let signature = referrer(
        2,
        EMPTY,
        &json!({ "artifactType": "text/signature", "annotations": { "by": "us" } }),
    );
    let sbom = referrer(3, "text/spdx", &json!({}));
    let list = Manifest::add_referrers(None, &[signature.clone(), sbom.clone()]);
    let list = list.unwrap().unwrap();
    assert_eq!(list.media_type, OCI_INDEX);
    let mut expected = [
        json!({
            "mediaType": IMAGE, "digest": signature.digest.as_str(), "size": signature.raw.len(),
            "artifactType": "text/signature", "annotations": { "by": "us" },
        }),
        json!({
            "mediaType": IMAGE, "digest": sbom.digest.as_str(), "size": sbom.raw.len(),
            "artifactType": "text/spdx",
        }),
    ];
    expected.sort_by_key(|entry| entry["digest"].to_string());
    assert_eq!(listed(&list), expected);
    let again = Manifest::add_referrers(None, &[sbom, signature]);
    assert_eq!(again.unwrap().unwrap(), list);
    // Notes without end are not repeated.
    let talkative = referrer(
        4,
        EMPTY,
        &json!({ "annotations": { "a": "x".repeat(20_000) } }),
    );
    let list = Manifest::add_referrers(None, &[talkative])
        .unwrap()
        .unwrap();
    assert!(list.raw.len() < 1_000);
}

#[test]
fn a_list_keeps_what_it_says_and_gets_only_what_it_lacks() {
    let [one, two] = [2, 3].map(|number| referrer(number, EMPTY, &json!({})));
    let theirs = json!({ "mediaType": IMAGE, "digest": digest(9), "size": 5, "x-unknown": [1] });
    let before = manifest(&json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [theirs], "annotations": { "a": "b" },
    }));
    let list = Manifest::add_referrers(Some(&before), std::slice::from_ref(&one));
    let list = list.unwrap().unwrap();
    assert_eq!(listed(&list)[0], theirs);
    assert_eq!(list.children().len(), 2);
    assert!(
        std::str::from_utf8(&list.raw)
            .unwrap()
            .contains(r#""a":"b""#)
    );
    let one = [one];
    assert_eq!(Manifest::add_referrers(Some(&list), &one).unwrap(), None);
    let other = Manifest::add_referrers(None, &[two]).unwrap().unwrap();
    let merged = other.merge_referrers(&list).unwrap();
    assert_eq!(merged.children().len(), 3);
    assert_eq!(merged.merge_referrers(&before).unwrap(), merged);
    // An image under that tag is nobody's list.
    assert!(Manifest::add_referrers(Some(&one[0]), &one).is_err());
    assert!(list.merge_referrers(&one[0]).is_err());
}

#[test]
fn a_list_never_grows_beyond_what_is_read() {
    let many: Vec<Manifest> = (0..600).map(|n| referrer(n, EMPTY, &json!({}))).collect();
    let list = Manifest::add_referrers(None, &many).unwrap().unwrap();
    assert_eq!(list.children().len(), MAX_REFERENCES);
}
