//! One message of every type. A field added later keeps its default here, because its golden file has none.

use chrono::{DateTime, Utc};
use sluice_domain::{
    Digest, RegistryHost, RemoteRepository, Repository, ResourceName, SeverityCounts, Tag,
};
use sluice_events::commands::{
    DeliverEvent, JudgeImage, MirrorTag, PollMirror, PruneRepositories, Reconcile, ScanImage,
};
use sluice_events::facts::{
    ImageFlagged, ImagePromoted, ImagePromotionDenied, ImageUnauthorised, ImageWithdrawn,
    ManifestDeleted, ManifestPulled, ManifestPushed, PruneCompleted, PrunedTag, Reason,
    ResourceApplied, ScanFailed, ScanFindingsChanged, ScanSucceeded, ScannedChild,
    ScannerDatabaseUpdated, TagDeleted, TagMirrorFailed, TagMirrored, TagMoveRefused, TagPulled,
    TagPushed, TagRepaired, UpstreamPollFailed, UpstreamPollRecovered, UpstreamTagGone,
    UpstreamTagMoved, WebhookDelivered, WebhookFailed,
};
use sluice_events::{Command, Event, EventId, Message};

/// Returns one message of every type of the protocol.
pub(crate) fn all() -> Vec<Message> {
    let facts = events().into_iter().map(Message::Event);
    facts
        .chain(commands().into_iter().map(Message::Command))
        .collect()
}

/// Returns one event of every type.
pub(crate) fn events() -> Vec<Event> {
    [upstream(), registry(), scans(), images(), upkeep()].concat()
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DATABASE: &str = "2026-11-24T00:00:00Z";
const COUNTS: SeverityCounts = SeverityCounts {
    critical: 1,
    high: 2,
    medium: 3,
    low: 4,
    unknown: 5,
};

fn digest() -> Digest {
    format!("sha256:{}", "ab".repeat(32)).parse().unwrap()
}

fn at() -> DateTime<Utc> {
    DATABASE.parse().unwrap()
}

fn name(text: &str) -> ResourceName {
    text.parse().unwrap()
}

fn repository(text: &str) -> Repository {
    text.parse().unwrap()
}

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

fn source() -> RemoteRepository {
    "docker.io/library/alpine".parse().unwrap()
}

pub(crate) fn host() -> RegistryHost {
    "127.0.0.1:5000".parse().unwrap()
}

fn event_id() -> EventId {
    "7f9c24e8-3b12-5fef-8d4a-0c6d1f2a3b4c".parse().unwrap()
}

fn upstream() -> Vec<Event> {
    vec![
        UpstreamTagMoved {
            mirror: name("alpine"),
            source: source(),
            repository: repository("hub/alpine"),
            tag: tag("3.20"),
            digest: digest(),
            previous: None,
            move_number: 1,
            first_seen_at: at(),
            urgent: false,
        }
        .into(),
        UpstreamTagGone {
            mirror: name("alpine"),
            source: source(),
            repository: repository("hub/alpine"),
            tag: tag("3.17"),
            last_digest: Some(digest()),
            move_number: 3,
            remove: true,
        }
        .into(),
        UpstreamPollFailed {
            mirror: name("alpine"),
            source: source(),
            repository: repository("hub/alpine"),
            reason: "too many requests".to_owned(),
            failures: 1,
        }
        .into(),
        UpstreamPollRecovered {
            mirror: name("alpine"),
            source: source(),
            repository: repository("hub/alpine"),
            failures: 2,
        }
        .into(),
        TagMirrored {
            mirror: name("alpine"),
            source: source(),
            repository: repository("hub/alpine"),
            tag: tag("3.20"),
            digest: digest(),
            media_type: INDEX.to_owned(),
            size_bytes: 7,
            blobs_copied: 1,
            blobs_mounted: 2,
            blobs_skipped: 3,
            bytes_copied: 4,
            move_number: 1,
            source_digest: None,
        }
        .into(),
        TagMirrorFailed {
            mirror: name("alpine"),
            source: source(),
            repository: repository("hub/alpine"),
            tag: tag("3.20"),
            digest: digest(),
            reason: "the manifest is gone".to_owned(),
            move_number: 1,
        }
        .into(),
        TagMoveRefused {
            mirror: name("alpine"),
            source: source(),
            repository: repository("hub/alpine"),
            tag: tag("3.20"),
            digest: digest(),
            kept: format!("sha256:{}", "cd".repeat(32)).parse().unwrap(),
            move_number: 2,
        }
        .into(),
        TagRepaired {
            mirror: name("alpine"),
            source: source(),
            repository: repository("hub/alpine"),
            tag: tag("3.20"),
            digest: digest(),
            missing: format!("blob {}", digest()),
            move_number: 1,
        }
        .into(),
    ]
}

fn registry() -> Vec<Event> {
    vec![
        TagPushed {
            registry: host(),
            repository: repository("hub/app"),
            tag: tag("1.0"),
            digest: digest(),
            media_type: MANIFEST.to_owned(),
            size_bytes: 9,
            actor: "ci".to_owned(),
            at: at(),
        }
        .into(),
        TagPulled {
            registry: host(),
            repository: repository("official/alpine"),
            tag: tag("3.20"),
            digest: digest(),
            media_type: INDEX.to_owned(),
            size_bytes: 9,
            actor: String::new(),
            at: at(),
        }
        .into(),
        TagDeleted {
            registry: host(),
            repository: repository("hub/app"),
            tag: tag("1.0"),
            actor: String::new(),
            at: at(),
        }
        .into(),
        ManifestPushed {
            registry: host(),
            repository: repository("hub/app"),
            digest: digest(),
            media_type: MANIFEST.to_owned(),
            size_bytes: 9,
            actor: "ci".to_owned(),
            at: at(),
        }
        .into(),
        ManifestPulled {
            registry: host(),
            repository: repository("official/alpine"),
            digest: digest(),
            media_type: MANIFEST.to_owned(),
            size_bytes: 9,
            actor: String::new(),
            at: at(),
        }
        .into(),
        ManifestDeleted {
            registry: host(),
            repository: repository("hub/app"),
            digest: digest(),
            actor: "ci".to_owned(),
            at: at(),
        }
        .into(),
    ]
}

fn scans() -> Vec<Event> {
    vec![
        ScanSucceeded {
            repository: repository("hub/alpine"),
            tag: Some(tag("3.20")),
            digest: digest(),
            scanner: name("trivy"),
            scanner_version: "0.59.1".to_owned(),
            database_version: DATABASE.to_owned(),
            counts: COUNTS,
            children: vec![ScannedChild {
                platform: Some("linux/amd64".parse().unwrap()),
                digest: digest(),
                counts: COUNTS,
                packages: 14,
                os: "alpine 3.20".to_owned(),
                end_of_life: false,
            }],
        }
        .into(),
        ScanFailed {
            repository: repository("hub/x"),
            tag: None,
            digest: digest(),
            scanner: name("trivy"),
            reason: "nothing to scan".to_owned(),
            unsupported: true,
            platform: None,
        }
        .into(),
        ScanFindingsChanged {
            repository: repository("official/alpine"),
            tag: Some(tag("3.20")),
            digest: digest(),
            scanner: name("trivy"),
            database_version: DATABASE.to_owned(),
            before: SeverityCounts::default(),
            after: COUNTS,
        }
        .into(),
        ScannerDatabaseUpdated {
            scanner: name("trivy"),
            database_version: DATABASE.to_owned(),
            updated_at: at(),
        }
        .into(),
    ]
}

fn images() -> Vec<Event> {
    vec![
        ImagePromoted {
            policy: name("clean"),
            source: repository("hub/alpine"),
            source_tag: tag("3.20"),
            target: repository("official/alpine"),
            target_tag: tag("3.20"),
            digest: digest(),
            decided_at: at(),
            previous: Some(digest()),
            registry: None,
        }
        .into(),
        ImagePromotionDenied {
            policy: name("clean"),
            repository: repository("hub/alpine"),
            tag: tag("3.20"),
            digest: digest(),
            target: repository("official/alpine"),
            reasons: vec![Reason {
                rule: "scan.critical == 0".to_owned(),
                detail: "scan.critical=1".to_owned(),
                passed: false,
                undetermined: false,
            }],
            decided_at: at(),
            registry: None,
        }
        .into(),
        ImageFlagged {
            policy: name("clean"),
            repository: repository("official/alpine"),
            tag: tag("3.20"),
            digest: digest(),
            reason: "scan.critical=1".to_owned(),
            registry: None,
        }
        .into(),
        ImageWithdrawn {
            policy: name("clean"),
            repository: repository("official/alpine"),
            tag: tag("3.20"),
            digest: digest(),
            reason: "scan.critical=1".to_owned(),
            registry: None,
        }
        .into(),
        ImageUnauthorised {
            repository: repository("official/alpine"),
            tag: Some(tag("3.20")),
            digest: digest(),
            reverted: true,
            reason: String::new(),
            pushed_by: String::new(),
            expected: None,
            registry: None,
        }
        .into(),
    ]
}

fn upkeep() -> Vec<Event> {
    vec![
        PruneCompleted {
            repository: repository("hub/alpine"),
            policy: None,
            deleted: vec![PrunedTag {
                tag: tag("1"),
                digest: digest(),
                reason: "tag limit".to_owned(),
            }],
            kept: 10,
            dry_run: false,
        }
        .into(),
        WebhookDelivered {
            endpoint: name("slack-images"),
            event_id: event_id(),
            event_name: "image.promoted".to_owned(),
            attempts: 3,
            status: 204,
            duration_ms: 12,
        }
        .into(),
        WebhookFailed {
            endpoint: name("slack-images"),
            event_id: event_id(),
            event_name: "image.promoted".to_owned(),
            attempts: 12,
            status: 500,
            reason: "the endpoint answered 500".to_owned(),
        }
        .into(),
        ResourceApplied {
            kind: "Repository".to_owned(),
            name: name("hub/*"),
            revision: 7,
            removed: false,
            actor: "admin".to_owned(),
        }
        .into(),
    ]
}

fn commands() -> Vec<Command> {
    vec![
        PollMirror {
            mirror: name("alpine"),
            urgent: false,
        }
        .into(),
        ScanImage {
            repository: repository("hub/alpine"),
            tag: Some(tag("3.20")),
            digest: digest(),
        }
        .into(),
        JudgeImage {
            repository: repository("hub/alpine"),
            tag: tag("3.20"),
            digest: digest(),
        }
        .into(),
        PruneRepositories {
            policy: Some(name("nightly")),
            repository: Some(repository("hub/alpine")),
        }
        .into(),
        DeliverEvent {
            endpoint: name("slack-images"),
            event_id: event_id(),
            event_type: "sluice.events.v1.ImagePromoted".to_owned(),
            event_time: at(),
            payload: vec![1, 2, 3],
            // The golden file is older than this field.
            event_source: String::new(),
        }
        .into(),
        Reconcile {
            stage: "promoter".to_owned(),
            reason: "hourly".to_owned(),
            run: "sluice.schedule.reconcile.promoter@7".to_owned(),
            scan: 1,
            after: 2,
            looked_at: 3,
            found: 4,
            counted: 5,
            after_name: "hub/alpine".to_owned(),
            restored: String::new(),
        }
        .into(),
        MirrorTag {
            mirror: name("alpine"),
            tag: tag("3.20"),
            move_number: 3,
            damaged: false,
            referrers: false,
            urgent: false,
        }
        .into(),
    ]
}
