//! What is scanned is what clients unpack: layers are read once, by rules, and the scanner gets nothing else.

use std::fs;

use serde_json::{Value, json};
use sluice_events::wire::state::{Verdict, VerdictStatus};
use sluice_state::key;
use sluice_tests::content::{DEBIAN, JINJA, NEW_LIBC, OLD_LIBC, debian};
use sluice_tests::image::{digest, tar};
use sluice_tests::{Database, Image, Stack, Upstream, wait_for};

const APP: &str = "library/app";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

fn scanning(settings: &[(&str, &str)]) -> (Stack, usize, Upstream) {
    let mut stack = Stack::start(7_200);
    Database::of("2020-01-02T00:00:00Z").publish(&stack);
    let adapter = stack.scanner(settings);
    let publisher = stack.mirrored();
    (stack, adapter, publisher)
}

/// Waits for what is told of an image.
fn told(stack: &Stack, event: &str, image: &Image) -> Value {
    let about = |fact: &Value| fact["data"]["digest"] == image.digest;
    wait_for(&format!("{event} of {}", image.digest), 90, || {
        stack.events(event).into_iter().find(about)
    })["data"]
        .clone()
}

fn verdict(stack: &Stack, image: &Image) -> Verdict {
    let bus = stack.bus();
    let key = key::verdict(&image.digest.parse().unwrap());
    bus.run(bus.state.verdicts.get(&key))
        .unwrap()
        .unwrap()
        .value
}

/// Waits until an image is refused, and checks what is said of it.
fn refused(stack: &Stack, image: &Image, reason: &str) {
    let fact = told(stack, "scan.failed", image);
    assert_eq!(fact["unsupported"], true, "{fact}");
    assert!(fact["reason"].as_str().unwrap().contains(reason), "{fact}");
    let verdict = verdict(stack, image);
    assert_eq!(verdict.status(), VerdictStatus::Unsupported);
    assert!(verdict.reason.contains(reason), "{}", verdict.reason);
}

/// Makes a zstd frame of bytes as they are, in one block.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let size = u32::try_from(bytes.len()).unwrap();
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    frame.extend(size.to_le_bytes());
    frame.extend(&((size << 3) | 1).to_le_bytes()[..3]);
    frame.extend(bytes);
    frame
}

/// Makes a tar that is a skippable frame of zstd at the same time: its first name is that frame's magic number and size.
fn skippable(files: &[(&str, &str)]) -> Vec<u8> {
    let mut all = vec![("name", "")];
    all.extend(files);
    let mut bytes = tar(&all);
    let size = u32::try_from(bytes.len() - 8).unwrap();
    bytes[..4].copy_from_slice(b"P*M\x18");
    bytes[4..8].copy_from_slice(&size.to_le_bytes());
    bytes[148..156].copy_from_slice(b"        ");
    let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes
}

#[test]
fn an_image_that_clients_unpack_in_another_way_than_the_scanner_is_unsupported() {
    let (stack, _, publisher) = scanning(&[]);
    let (clean, evil) = (debian(&[NEW_LIBC]), debian(&[OLD_LIBC]));
    let (clean_layer, clean_id) = publisher.layer(APP, &clean);
    let (evil_layer, evil_id) = publisher.layer(APP, &evil);

    // The scanner would read the tar in front, containerd unpacks the frame behind it.
    let mut hidden = skippable(&clean);
    hidden.extend(zstd(&tar(&evil)));
    let hidden = publisher.blob(APP, ZSTD, &hidden);
    let skippable = publisher.layered(APP, &[hidden], std::slice::from_ref(&evil_id));
    // The scanner would read the first layer twice.
    let both = [clean_layer.clone(), evil_layer.clone()];
    let twice = publisher.layered(APP, &both, &[clean_id.clone(), clean_id.clone()]);
    let wrong = publisher.layered(
        APP,
        std::slice::from_ref(&evil_layer),
        std::slice::from_ref(&clean_id),
    );
    // The scanner would read no layer at all.
    let none = publisher.layered(APP, std::slice::from_ref(&evil_layer), &[]);
    let fewer = publisher.layered(APP, &both, std::slice::from_ref(&clean_id));
    for (tag, image, rule) in [
        ("1.0", &skippable, "rule 8"),
        ("1.1", &twice, "rule 11"),
        ("1.2", &wrong, "rule 11"),
        ("1.3", &none, "rule 7"),
        ("1.4", &fewer, "rule 7"),
    ] {
        publisher.put(APP, tag, image);
        refused(&stack, image, rule);
    }
    assert!(stack.events("scan.succeeded").is_empty());

    // What an image before stated of these layers changes nothing for one that is honest.
    let honest = publisher.layered(APP, &[evil_layer], &[evil_id]);
    publisher.put(APP, "2.0", &honest);
    assert_eq!(told(&stack, "scan.succeeded", &honest)["counts"]["high"], 3);
    let layers = verdict(&stack, &honest).layers;
    assert_eq!(layers.len(), 1);
    assert!(layers[0].entries == 3 && layers[0].unpacked_bytes > layers[0].size_bytes);
}

#[test]
fn files_of_an_image_that_steer_the_scanner_hide_nothing() {
    let (stack, _, publisher) = scanning(&[]);
    // A bill of materials of a version without vulnerabilities at the place of the real one.
    let sbom = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "components": [{
            "type": "library", "name": "Jinja2", "version": "99.0", "purl": "pkg:pypi/jinja2@99.0",
            "properties": [
                { "name": "aquasecurity:trivy:PkgType", "value": "python-pkg" },
                { "name": "aquasecurity:trivy:FilePath", "value": JINJA.0 },
            ],
        }],
    });
    let sbom = sbom.to_string();
    let with_sbom = [
        &DEBIAN[..],
        &[NEW_LIBC, JINJA, ("app/app.cdx.json", sbom.as_str())],
    ]
    .concat();
    let with_sbom = publisher.files(APP, "amd64", &with_sbom);
    // A list of files that says that Debian installed it.
    let list = format!("/{}\n", JINJA.0);
    let listed = ("var/lib/dpkg/info/libc6.list", list.as_str());
    let listed = [&DEBIAN[..], &[NEW_LIBC, JINJA, listed]].concat();
    let listed = publisher.files(APP, "amd64", &listed);
    for (tag, image) in [("1.0", &with_sbom), ("1.1", &listed)] {
        publisher.put(APP, tag, image);
        assert_eq!(told(&stack, "scan.succeeded", image)["counts"]["high"], 1);
    }
    // A database that the scanner cannot read, and one of packages of another system.
    let broken = ("var/lib/rpm/rpmdb.sqlite", "this is none");
    let broken = publisher.files(APP, "amd64", &debian(&[broken, JINJA]));
    let other = ("lib/apk/db/installed", "P:musl\nV:1.2.3-r4\n\n");
    let other = publisher.files(APP, "amd64", &debian(&[NEW_LIBC, other]));
    for (tag, image) in [("1.2", &broken), ("1.3", &other)] {
        publisher.put(APP, tag, image);
        refused(&stack, image, "incomplete");
    }
}

#[test]
fn a_small_layer_that_unpacks_to_much_fills_no_disk_and_is_not_scanned() {
    let (stack, _, publisher) = scanning(&[("SLUICE__LAYERS__UNPACKED_MEGABYTES", "4")]);
    let zeros = vec![0; 64 << 20];
    let (layer, id) = publisher.layer(APP, &[("zeros", zeros.as_slice())]);
    assert!(layer["size"].as_u64().unwrap() < 1 << 20);
    let bomb = publisher.layered(APP, &[layer], &[id]);
    publisher.put(APP, "1.0", &bomb);
    refused(&stack, &bomb, "not scanned: limit");
    let work = stack.folder().join("trivy/adapter-0/work");
    wait_for("the room to be free again", 30, || {
        let left = fs::read_dir(&work).unwrap().count();
        (left == 0).then_some(())
    });
    let good = publisher.files(APP, "amd64", &debian(&[NEW_LIBC]));
    publisher.put(APP, "1.1", &good);
    told(&stack, "scan.succeeded", &good);
}

#[test]
fn layers_that_are_known_are_neither_fetched_nor_unpacked_again() {
    let (stack, _, publisher) = scanning(&[]);
    let base = publisher.layer(APP, &debian(&[OLD_LIBC]));
    let image = |files: &[(&str, &str)]| {
        let own = publisher.layer(APP, files);
        let layers = [base.0.clone(), own.0];
        publisher.layered(APP, &layers, &[base.1.clone(), own.1])
    };
    let (first, second) = (image(&[JINJA]), image(&[("app/hello", "hello")]));
    publisher.put(APP, "1.0", &first);
    assert_eq!(told(&stack, "scan.succeeded", &first)["counts"]["high"], 4);
    publisher.put(APP, "1.1", &second);
    // Its packages are all there, although the layer was not read.
    assert_eq!(told(&stack, "scan.succeeded", &second)["counts"]["high"], 3);
    let fetched = format!(
        "GET /v2/hub/app/blobs/{}",
        base.0["digest"].as_str().unwrap()
    );
    let requests = stack.internal.requests();
    let count = requests
        .iter()
        .filter(|request| **request == fetched)
        .count();
    assert_eq!(count, 1, "{requests:?}");
    let layers = |image: &Image| verdict(&stack, image).layers;
    assert_eq!(layers(&first)[0], layers(&second)[0]);
}

#[test]
fn other_bytes_than_those_of_the_digest_are_never_scanned() {
    let mut stack = Stack::start(7_200);
    Database::of("2020-01-02T00:00:00Z").publish(&stack);
    let publisher = stack.mirrored();
    let (layer, id) = publisher.layer(APP, &debian(&[OLD_LIBC]));
    let image = publisher.layered(APP, std::slice::from_ref(&layer), &[id]);
    publisher.put(APP, "1.0", &image);
    wait_for("the image to be mirrored", 60, || {
        stack.events("tag.mirrored").pop()
    });
    let genuine = stack.internal.forge(layer["digest"].as_str().unwrap());
    let adapter = stack.scanner(&[]);
    wait_for("the bytes to be found out", 60, || {
        stack
            .log_of(adapter)
            .contains("the blob is not")
            .then_some(())
    });
    assert!(stack.events("scan.succeeded").is_empty());
    genuine.restore();
    assert_eq!(told(&stack, "scan.succeeded", &image)["counts"]["high"], 3);
    assert_eq!(digest(&image.raw), image.digest);
}
