//! Documents of images with one reading, and with none or two.

use super::*;

const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn descriptor(media_type: &str) -> Value {
    json!({ "mediaType": media_type, "digest": DIGEST, "size": 2 })
}

fn manifest(change: impl FnOnce(&mut Value)) -> Manifest {
    let mut document = json!({
        "schemaVersion": 2, "config": descriptor(CONFIGS[0]), "layers": [descriptor(LAYER)]
    });
    change(&mut document);
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    Manifest::parse("x", media_type, document.to_string().into()).unwrap()
}

#[test]
fn a_manifest_that_some_clients_read_in_another_way_is_refused_with_the_rule() {
    assert!(config_and_layers(&manifest(|_| {})).is_ok());
    type Change = fn(&mut Value);
    let changes: [(Change, &str); 12] = [
        (
            |m| m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json"),
            "helm",
        ),
        (|m| m["layers"] = json!([]), "0 layers"),
        (
            |m| m["layers"] = json!(vec![m["layers"][0].clone(); 128]),
            "128 layers",
        ),
        (|m| m["layers"][0]["size"] = json!(0), "rule 6"),
        (
            |m| m["layers"][0]["urls"] = json!(["http://169.254.169.254/"]),
            "elsewhere",
        ),
        (|m| m["config"]["urls"] = json!(["http://a"]), "elsewhere"),
        (|m| m["layers"][0]["data"] = json!("e30="), "`data`"),
        (
            |m| m["layers"][0]["mediaType"] = json!("application/octet-stream"),
            "rule 5",
        ),
        (
            |m| m["layers"][0]["mediaType"] = json!(format!("{LAYER}+encrypted")),
            "rule 5",
        ),
        (
            |m| {
                m["layers"][0]["annotations"] =
                    json!({ "containerd.io/snapshot/stargz/toc.digest": "a" });
            },
            "rule 17",
        ),
        (
            |m| m["annotations"] = json!({ "com.amazon.soci.index-digest": "a" }),
            "rule 17",
        ),
        (|m| m["config"]["size"] = json!(5 << 20), "limit"),
    ];
    for (change, reason) in changes {
        let manifest = manifest(change);
        let refused = config_and_layers(&manifest).unwrap_err();
        assert!(refused.contains(reason), "{refused}");
    }
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    assert!(config_and_layers(&manifest(|m| m["layers"][0]["mediaType"] = json!(foreign))).is_ok());
    let index = Manifest::parse(
        "x",
        "application/vnd.oci.image.index.v1+json",
        r#"{"schemaVersion":2,"manifests":[]}"#.into(),
    );
    assert!(
        config_and_layers(&index.unwrap())
            .unwrap_err()
            .contains("index")
    );
}

fn read(config: &str, layers: usize) -> Result<ImageDocuments, String> {
    let manifest = manifest(|m| m["layers"] = json!(vec![m["layers"][0].clone(); layers]));
    let (_, layers) = config_and_layers(&manifest)?;
    ImageDocuments::read(config.as_bytes(), layers)
}

#[test]
fn a_configuration_that_does_not_name_each_layer_once_is_refused_with_the_rule() {
    let rootfs = |rootfs: Value| json!({ "os": "linux", "rootfs": rootfs }).to_string();
    let good = rootfs(json!({ "type": "layers", "diff_ids": [DIGEST] }));
    assert!(read(&good, 1).is_ok());
    let upper = DIGEST.to_uppercase();
    for (config, layers, rule) in [
        ("{}".to_owned(), 1, "rule 7"),
        (rootfs(json!(null)), 1, "rule 7"),
        (
            rootfs(json!({ "type": "layers", "diff_ids": [] })),
            1,
            "rule 7",
        ),
        (rootfs(json!({ "type": "layers" })), 1, "rule 7"),
        (rootfs(json!({ "diff_ids": [DIGEST] })), 1, "rule 7"),
        (
            rootfs(json!({ "type": "base", "diff_ids": [DIGEST] })),
            1,
            "rule 7",
        ),
        (
            rootfs(json!({ "type": "layers", "diff_ids": [DIGEST, DIGEST] })),
            1,
            "rule 7",
        ),
        (good.clone(), 2, "rule 7"),
        (
            rootfs(json!({ "type": "layers", "diff_ids": [upper] })),
            1,
            "rule 7",
        ),
        (
            rootfs(json!({ "type": "layers", "diff_ids": ["sha512:00"] })),
            1,
            "rule 7",
        ),
        (format!("{good} {good}"), 1, "rule 2"),
        (format!("{good}x"), 1, "rule 2"),
        (good.replace("diff_ids", "Diff_IDs"), 1, "rule 2"),
        (
            good.replace("{\"os\"", "{\"RootFS\":{},\"os\""),
            1,
            "rule 2",
        ),
        ("[]".to_owned(), 1, "rule 2"),
    ] {
        let reason = read(&config, layers).unwrap_err();
        assert!(reason.contains(rule), "{config}: {reason}");
    }
}

#[test]
fn nothing_that_influences_the_scanner_stays_in_a_configuration() {
    let config = json!({
        "os": "linux", "architecture": "arm64", "variant": "v8", "created": "2026-01-01T00:00:00Z",
        "config": { "Labels": { "a": "b" }, "Env": ["A=b"] },
        "history": [{ "created_by": "CMD [\"sh\"]", "empty_layer": true }],
        "rootfs": { "type": "layers", "diff_ids": [DIGEST] },
    });
    let content = read(&config.to_string(), 1).unwrap();
    let kept: Value = serde_json::from_str(&content.config).unwrap();
    let expected = json!({
        "os": "linux", "architecture": "arm64", "variant": "v8",
        "rootfs": { "type": "layers", "diff_ids": [DIGEST] },
    });
    assert_eq!(kept, expected);
}

#[test]
fn the_size_of_a_configuration_counts_too() {
    let manifest = manifest(|_| {});
    let (config, _) = config_and_layers(&manifest).unwrap();
    assert!(check_size(config, b"{}").is_ok());
    assert!(check_size(config, b"{} ").unwrap_err().contains("rule 6"));
}
