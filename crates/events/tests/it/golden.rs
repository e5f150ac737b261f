//! Every message that was ever released still reads and writes the same; `UPDATE=1` adds missing files.

use std::fs;
use std::path::PathBuf;

use sluice_domain::SeverityCounts;
use sluice_events::Event;
use sluice_events::facts::{
    ImagePromoted, ImagePromotionDenied, PruneCompleted, PrunedTag, Reason, ScanFailed,
    ScanSucceeded, ScannedChild, TagDeleted, TagMirrored, TagPushed, UpstreamTagMoved,
};

fn samples() -> Vec<Event> {
    let digest: sluice_domain::Digest = format!("sha256:{}", "ab".repeat(32)).parse().unwrap();
    let at = "2026-11-24T00:00:00Z".parse().unwrap();
    let counts = SeverityCounts {
        critical: 1,
        high: 2,
        medium: 3,
        low: 4,
        unknown: 5,
    };
    let name = |text: &str| text.parse().unwrap();
    let repository = |text: &str| text.parse().unwrap();
    let tag = |text: &str| text.parse().unwrap();
    let source: sluice_domain::RemoteRepository = "docker.io/library/alpine".parse().unwrap();
    vec![
        UpstreamTagMoved {
            mirror: name("alpine"),
            source: source.clone(),
            repository: repository("hub/alpine"),
            tag: tag("3.20"),
            digest: digest.clone(),
            previous: None,
            move_number: 1,
            first_seen_at: at,
        }
        .into(),
        TagMirrored {
            mirror: name("alpine"),
            source,
            repository: repository("hub/alpine"),
            tag: tag("3.20"),
            digest: digest.clone(),
            media_type: "application/vnd.oci.image.index.v1+json".to_owned(),
            size_bytes: 7,
            blobs_copied: 1,
            blobs_mounted: 2,
            blobs_skipped: 3,
            bytes_copied: 4,
            move_number: 1,
        }
        .into(),
        TagPushed {
            registry: "127.0.0.1:5000".parse().unwrap(),
            repository: repository("hub/app"),
            tag: tag("1.0"),
            digest: digest.clone(),
            media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
            size_bytes: 9,
            actor: "ci".to_owned(),
            at,
        }
        .into(),
        TagDeleted {
            registry: "127.0.0.1:5000".parse().unwrap(),
            repository: repository("hub/app"),
            tag: tag("1.0"),
            actor: String::new(),
            at,
        }
        .into(),
        ScanSucceeded {
            repository: repository("hub/alpine"),
            tag: Some(tag("3.20")),
            digest: digest.clone(),
            scanner: name("trivy"),
            scanner_version: "0.59.1".to_owned(),
            database_version: "2026-11-24T00:00:00Z".to_owned(),
            counts,
            children: vec![ScannedChild {
                platform: Some("linux/amd64".parse().unwrap()),
                digest: digest.clone(),
                counts,
                packages: 14,
                os: "alpine 3.20".to_owned(),
                end_of_life: false,
            }],
        }
        .into(),
        ScanFailed {
            repository: repository("hub/x"),
            tag: None,
            digest: digest.clone(),
            scanner: name("trivy"),
            reason: "nothing to scan".to_owned(),
            unsupported: true,
            platform: None,
        }
        .into(),
        ImagePromoted {
            policy: name("clean"),
            source: repository("hub/alpine"),
            source_tag: tag("3.20"),
            target: repository("official/alpine"),
            target_tag: tag("3.20"),
            digest: digest.clone(),
            decided_at: at,
            previous: Some(digest.clone()),
        }
        .into(),
        ImagePromotionDenied {
            policy: name("clean"),
            repository: repository("hub/alpine"),
            tag: tag("3.20"),
            digest: digest.clone(),
            target: repository("official/alpine"),
            reasons: vec![Reason {
                rule: "scan.critical == 0".to_owned(),
                detail: "scan.critical=1".to_owned(),
                passed: false,
            }],
            decided_at: at,
        }
        .into(),
        PruneCompleted {
            repository: repository("hub/alpine"),
            policy: None,
            deleted: vec![PrunedTag {
                tag: tag("1"),
                digest,
                reason: "tag limit".to_owned(),
            }],
            kept: 10,
            dry_run: false,
        }
        .into(),
    ]
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the switch of a developer's test run"
)]
fn released_messages_read_and_write_the_same() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/contract/golden/v1");
    fs::create_dir_all(&folder).unwrap();
    for event in samples() {
        let name = event.type_name().rsplit('.').next().unwrap();
        let (binary, json) = (
            folder.join(format!("{name}.bin")),
            folder.join(format!("{name}.json")),
        );
        if std::env::var("UPDATE").is_ok() && !binary.exists() {
            fs::write(&binary, event.encode()).unwrap();
            fs::write(
                &json,
                serde_json::to_string_pretty(&event.to_json()).unwrap() + "\n",
            )
            .unwrap();
        }
        let bytes = fs::read(&binary)
            .unwrap_or_else(|_| panic!("no golden file for {name}; run with UPDATE=1"));
        let read = Event::decode(event.type_name(), &bytes).unwrap().unwrap();
        assert_eq!(read, event, "{name} reads differently");
        assert_eq!(event.encode(), bytes, "{name} is written differently");
        assert_eq!(
            fs::read_to_string(&json).unwrap(),
            serde_json::to_string_pretty(&read.to_json()).unwrap() + "\n"
        );
    }
}
