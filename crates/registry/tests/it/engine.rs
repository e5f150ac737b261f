//! The copy engine: what it asks for, and what it does when something breaks in the middle.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sluice_domain::{Digest, Repository};
use sluice_registry::{
    BlobOutcome, Client, ConcurrencyLimits, CopyJob, CopyOptions, CopyReport, Error, Progress,
    ProgressListener, digest_of,
};

use crate::memory_registry::{Manner, Peer, Ranges};

pub(crate) fn name(text: &str) -> Repository {
    text.parse().unwrap()
}

/// Bytes that look different everywhere.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

async fn copy_with(
    from: &Peer,
    to: &Client,
    digest: &Digest,
    target: &str,
    options: &CopyOptions,
) -> Result<CopyReport, Error> {
    let (source, up, target) = (from.client(), name("up/app"), name(target));
    let job = CopyJob {
        source: &source,
        source_repository: &up,
        digest,
        target: to,
        target_repository: &target,
        siblings: &[],
    };
    job.run_with(options).await
}

pub(crate) async fn copy(
    from: &Peer,
    to: &Client,
    digest: &Digest,
    target: &str,
) -> Result<CopyReport, Error> {
    copy_with(from, to, digest, target, &CopyOptions::default()).await
}

pub(crate) async fn pair() -> (Peer, Peer) {
    (Peer::start().await, Peer::start().await)
}

#[tokio::test]
async fn an_image_costs_no_request_that_is_not_needed() {
    let (source, target) = pair().await;
    let up = name("up/app");
    let children: Vec<Digest> = (0..2u8)
        .map(|n| source.push(&up, &[vec![n; 3_000], vec![9; 5_000]]))
        .collect();
    let top = source.index(&up, &children);
    let copied = copy(&source, &target.client(), &top, "hub/app")
        .await
        .unwrap();
    // The configurations are the same, as are the base layers.
    assert_eq!(copied.blobs_copied, 4);
    assert_eq!(source.asked("GET", "/manifests/").len(), 3);
    assert_eq!(source.asked("GET", "/blobs/").len(), 4);
    assert_eq!(source.all_asked(), 7);
    assert_eq!(target.asked("GET", "/manifests/").len(), 3, "is it there?");
    assert_eq!(target.asked("HEAD", "/blobs/").len(), 4);
    assert_eq!(target.asked("POST", "/uploads/").len(), 4);
    assert_eq!(target.asked("PUT", "/uploads/").len(), 4);
    assert_eq!(target.asked("PUT", "/manifests/").len(), 3);
    assert_eq!(target.all_asked(), 18);
}

#[tokio::test]
async fn a_tag_is_written_in_the_place_of_the_digest_and_also_where_the_image_is_there() {
    let (source, target) = pair().await;
    let up = name("up/app");
    let child = source.push(&up, &[bytes(1, 10)]);
    let top = source.index(&up, &[child]);
    for tag in ["1", "2"] {
        let options = CopyOptions {
            tag: Some(tag.parse().unwrap()),
            ..CopyOptions::default()
        };
        copy_with(&source, &target.client(), &top, "hub/app", &options)
            .await
            .unwrap();
        assert_eq!(target.asked("PUT", &format!("manifests/{tag}")).len(), 1);
    }
    assert_eq!(target.asked("PUT", "/manifests/").len(), 3);
}

#[tokio::test]
async fn what_is_there_is_read_there_and_nothing_is_asked_of_the_source() {
    let (source, target) = pair().await;
    let up = name("up/app");
    let child = source.push(&up, &[bytes(1, 3_000)]);
    let other = source.push(&up, &[bytes(2, 3_000)]);
    let (one, both) = (
        source.index(&up, std::slice::from_ref(&child)),
        source.index(&up, &[child.clone(), other.clone()]),
    );
    copy(&source, &target.client(), &one, "hub/app")
        .await
        .unwrap();
    let (source_before, target_before) = (source.all_asked(), target.all_asked());
    let again = copy(&source, &target.client(), &one, "hub/app")
        .await
        .unwrap();
    assert_eq!((again.blobs_copied, again.blobs_skipped), (0, 2));
    assert_eq!(source.all_asked(), source_before);
    assert_eq!(
        target.all_asked() - target_before,
        2,
        "a manifest that is there proves its blobs"
    );
    let both = copy(&source, &target.client(), &both, "hub/app")
        .await
        .unwrap();
    assert_eq!((both.blobs_copied, both.blobs_skipped), (1, 2));
    assert!(
        source.asked("GET", child.as_str()).len() == 1,
        "fetched once"
    );
    assert_eq!(source.asked("GET", other.as_str()).len(), 1);
}

#[tokio::test]
async fn a_thorough_copy_finds_a_blob_that_is_lost_and_another_one_trusts_the_manifest() {
    let (source, target) = pair().await;
    let layer = bytes(1, 3_000);
    let digest = source.push(&name("up/app"), std::slice::from_ref(&layer));
    let (client, hub) = (target.client(), name("hub/app"));
    copy(&source, &client, &digest, "hub/app").await.unwrap();
    target.lose(&hub, &digest_of(&layer));
    copy(&source, &client, &digest, "hub/app").await.unwrap();
    assert!(!target.holds(&hub, &digest_of(&layer)));
    let thorough = CopyOptions {
        verify_blobs: true,
        ..CopyOptions::default()
    };
    let copied = copy_with(&source, &client, &digest, "hub/app", &thorough).await;
    assert_eq!(copied.unwrap().blobs_copied, 1);
    assert!(target.holds(&hub, &digest_of(&layer)));
}

#[tokio::test]
async fn a_blob_that_this_process_brought_elsewhere_is_mounted_without_a_question() {
    let (source, target) = pair().await;
    let (base, up) = (bytes(1, 9_000), name("up/app"));
    let first = source.push(&up, &[base.clone(), bytes(2, 10)]);
    let second = source.push(&up, &[base.clone(), bytes(3, 10)]);
    copy(&source, &target.client(), &first, "hub/one")
        .await
        .unwrap();
    // Another client of the same registry, as of the next message.
    let copied = copy(&source, &target.client(), &second, "hub/two")
        .await
        .unwrap();
    assert_eq!((copied.blobs_copied, copied.blobs_mounted), (1, 2));
    let base = digest_of(&base);
    assert!(
        target
            .asked("HEAD", &format!("hub/two/blobs/{base}"))
            .is_empty()
    );
    assert_eq!(source.asked("GET", base.as_str()).len(), 1);
}

#[tokio::test]
async fn what_the_registry_says_of_a_blob_counts_and_not_what_is_remembered() {
    let (source, target) = pair().await;
    let (base, up) = (bytes(1, 9_000), name("up/app"));
    let first = source.push(&up, &[base.clone(), bytes(2, 10)]);
    let second = source.push(&up, &[base.clone(), bytes(3, 10)]);
    let (client, base) = (target.client(), digest_of(&base));
    copy(&source, &client, &first, "hub/one").await.unwrap();
    target.lose(&name("hub/one"), &base);
    // Mounting does not work any more; and in its own repository only the refused manifest tells it.
    let copied = copy(&source, &client, &second, "hub/two").await.unwrap();
    assert_eq!((copied.blobs_copied, copied.blobs_mounted), (2, 1));
    target.lose(&name("hub/two"), &base);
    let third = source.push(&up, &[bytes(1, 9_000), bytes(4, 10)]);
    let copied = copy(&source, &client, &third, "hub/two").await.unwrap();
    assert_eq!(
        (copied.blobs_copied, copied.blobs_skipped),
        (1, 2),
        "the base and what is new"
    );
    assert!(target.holds(&name("hub/two"), &base) && target.holds(&name("hub/two"), &third));
}

#[tokio::test]
async fn a_layer_of_several_repositories_is_sent_once_although_all_want_it_at_once() {
    let (source, target) = pair().await;
    target.behave(Manner {
        latency: Duration::from_millis(20),
        ..Manner::default()
    });
    let base = bytes(1, 900_000);
    let digest = source.push(&name("up/app"), std::slice::from_ref(&base));
    let client = target.client();
    let targets: Vec<String> = (0..6).map(|n| format!("hub/{n}")).collect();
    let copies = targets
        .iter()
        .map(|target| copy(&source, &client, &digest, target));
    for copied in futures_util::future::join_all(copies).await {
        copied.unwrap();
    }
    assert_eq!(source.asked("GET", digest_of(&base).as_str()).len(), 1);
    assert_eq!(target.asked("PUT", "/uploads/").len(), 2);
}

#[tokio::test]
async fn a_registry_that_mounts_nothing_gets_every_blob_and_no_upload_is_left_open() {
    let (source, target) = pair().await;
    target.behave(Manner {
        mounts_nothing: true,
        ..Manner::default()
    });
    let digest = source.push(&name("up/app"), &[bytes(1, 9_000), bytes(2, 9_000)]);
    let client = target.client();
    for n in 0..4 {
        let copied = copy(&source, &client, &digest, &format!("hub/{n}")).await;
        assert_eq!(copied.unwrap().blobs_copied, 3);
    }
    assert_eq!(target.uploads(), 0);
    assert_eq!(target.asked("POST", "/uploads/").len(), 12, "one for each");
}

#[tokio::test]
async fn a_source_that_breaks_off_is_resumed_while_the_upload_stays_open() {
    let (source, target) = pair().await;
    let layer = bytes(1, 1_000_000);
    let digest = source.push(&name("up/app"), std::slice::from_ref(&layer));
    source.behave(Manner {
        cuts: vec![100_000, 300_000],
        ..Manner::default()
    });
    let copied = copy(&source, &target.client(), &digest, "hub/app")
        .await
        .unwrap();
    assert_eq!(copied.blobs_copied, 2);
    let layer = digest_of(&layer);
    let asked = source.asked("GET", layer.as_str());
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(
        !asked[0].contains("bytes=") && asked[1].contains("bytes=") && asked[2].contains("bytes=")
    );
    assert!(source.sent() < 1_000_000 + 200_000, "{}", source.sent());
    let upload = format!("digest={}", layer.as_str().replace(':', "%3A"));
    assert_eq!(target.asked("PUT", &upload).len(), 1);
    assert!(target.holds(&name("hub/app"), &digest));
}

#[tokio::test]
async fn a_source_without_the_rest_begins_the_blob_anew() {
    for ranges in [Ranges::Ignored, Ranges::Wrong] {
        let (source, target) = pair().await;
        let layer = bytes(1, 1_000_000);
        let digest = source.push(&name("up/app"), std::slice::from_ref(&layer));
        source.behave(Manner {
            cuts: vec![300_000],
            ranges,
            ..Manner::default()
        });
        let copied = copy(&source, &target.client(), &digest, "hub/app").await;
        assert_eq!(copied.unwrap().blobs_copied, 2, "{ranges:?}");
        let asked = source.asked("GET", digest_of(&layer).as_str());
        let ranged: Vec<bool> = asked.iter().map(|asked| asked.contains("bytes=")).collect();
        assert_eq!(ranged, [false, true, false], "{ranges:?}");
        assert_eq!(target.uploads(), 0, "the first upload was given up");
    }
}

#[tokio::test]
async fn a_source_that_always_breaks_off_is_given_up() {
    let (source, target) = pair().await;
    let digest = source.push(&name("up/app"), &[bytes(1, 1_000_000)]);
    source.behave(Manner {
        cuts: vec![20_000; 100],
        ..Manner::default()
    });
    let error = copy(&source, &target.client(), &digest, "hub/app")
        .await
        .unwrap_err();
    assert!(error.is_unreachable(), "{error:?}");
    let asked = source.asked("GET", "/blobs/").len();
    assert!((4..30).contains(&asked), "{asked}");
    assert_eq!(target.uploads(), 0);
    assert!(!target.holds(&name("hub/app"), &digest));
}

#[tokio::test]
async fn a_copy_that_is_dropped_in_the_middle_of_a_blob_goes_on_nowhere() {
    let (source, target) = pair().await;
    let digest = source.push(&name("up/app"), &[bytes(1, 900_000), bytes(2, 900_000)]);
    source.behave(Manner {
        stalls_after: Some(200_000),
        ..Manner::default()
    });
    let client = target.client();
    {
        let copying = copy(&source, &client, &digest, "hub/app");
        tokio::pin!(copying);
        let begun = async {
            while source.sent() < 300_000 || target.asked("PUT", "/uploads/").len() < 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            copied = &mut copying => panic!("it cannot end: {copied:?}"),
            () = begun => {}
        }
        assert!(source.open().0 > 0 && target.open().0 > 0);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while source.open().0 + target.open().0 > 0 {
        assert!(Instant::now() < deadline, "a request goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Nobody is waited for: the same blobs can be brought at once.
    source.behave(Manner::default());
    copy(&source, &client, &digest, "hub/app").await.unwrap();
}

#[tokio::test]
async fn all_copies_together_keep_to_the_limit_of_connections() {
    let (source, target) = pair().await;
    for peer in [&source, &target] {
        peer.behave(Manner {
            latency: Duration::from_millis(10),
            ..Manner::default()
        });
    }
    let options = |connections| CopyOptions {
        limits: Some(ConcurrencyLimits::new(connections, u64::MAX)),
        ..CopyOptions::default()
    };
    for (connections, repository, expected) in [(3, "a", 1..=3), (64, "b", 5..=64)] {
        let digests: Vec<Digest> = (0..8)
            .map(|n| {
                let seed = n + u64::from(connections) * 100;
                source.push(
                    &name("up/app"),
                    &[bytes(seed, 30_000), bytes(seed + 50, 30_000)],
                )
            })
            .collect();
        let (options, client) = (options(connections), target.client());
        let copies = digests
            .iter()
            .map(|digest| copy_with(&source, &client, digest, repository, &options));
        for copied in futures_util::future::join_all(copies).await {
            copied.unwrap();
        }
        let most = source.open().1.max(target.open().1);
        assert!(expected.contains(&most), "{most} of {connections}");
    }
}

#[tokio::test]
async fn all_copies_together_keep_to_the_limit_of_bytes() {
    #[derive(Debug, Default)]
    struct UnderWay(Mutex<(u64, u64)>);
    impl ProgressListener for UnderWay {
        fn on_progress(&self, progress: &Progress<'_>) {
            let mut both = self.0.lock().unwrap();
            match progress {
                Progress::BlobStarted { size, .. } => both.0 += size,
                Progress::BlobDone {
                    size,
                    outcome: BlobOutcome::Copied,
                    ..
                } => both.0 -= size,
                _ => {}
            }
            both.1 = both.1.max(both.0);
        }
    }
    let (source, target) = pair().await;
    let layers: Vec<Vec<u8>> = (0..6).map(|n| bytes(n, 128 << 10)).collect();
    let digest = source.push(&name("up/app"), &layers);
    for (bytes, expected) in [
        (256 << 10, 1..=256 << 10),
        (u64::MAX, (384 << 10)..=u64::MAX),
    ] {
        let watch = Arc::new(UnderWay::default());
        let options = CopyOptions {
            listener: Some(Arc::<UnderWay>::clone(&watch)),
            limits: Some(ConcurrencyLimits::new(64, bytes)),
            ..CopyOptions::default()
        };
        let other = Peer::start().await;
        copy_with(&source, &other.client(), &digest, "hub/app", &options)
            .await
            .unwrap();
        let (left, most) = *watch.0.lock().unwrap();
        assert!(left == 0 && expected.contains(&most), "{most} of {bytes}");
    }
    drop(target);
}

#[tokio::test]
async fn a_bandwidth_is_kept_by_all_copies_together() {
    let (source, target) = pair().await;
    let digest = source.push(&name("up/app"), &[bytes(1, 150_000), bytes(2, 150_000)]);
    let mut endpoint = target.endpoint();
    endpoint.bandwidth = NonZeroU64::new(300_000);
    let slow = Client::new(endpoint).unwrap();
    let began = Instant::now();
    copy(&source, &slow, &digest, "hub/slow").await.unwrap();
    assert!(
        began.elapsed() > Duration::from_millis(900),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn whoever_watches_is_told_every_byte_and_every_blob() {
    #[derive(Debug, Default)]
    struct Told(Mutex<Vec<String>>);
    impl ProgressListener for Told {
        fn on_progress(&self, progress: &Progress<'_>) {
            let told = match progress {
                Progress::Planned { blobs, bytes } => format!("known {blobs} {bytes}"),
                Progress::BytesReceived { bytes, .. } => format!("arrived {bytes}"),
                Progress::BlobDone { size, outcome, .. } => format!("{outcome:?} {size}"),
                Progress::ManifestPushed { .. } => "manifest".to_owned(),
                _ => return,
            };
            self.0.lock().unwrap().push(told);
        }
    }
    let (source, target) = pair().await;
    let digest = source.push(&name("up/app"), &[bytes(1, 200_000)]);
    let client = target.client();
    let expected = [
        ("hub/one", vec!["Copied 12", "Copied 200000"], 200_012),
        ("hub/two", vec!["Mounted 12", "Mounted 200000"], 0),
        ("hub/two", vec!["Skipped 12", "Skipped 200000"], 0),
    ];
    for (repository, blobs, bytes) in expected {
        let watch = Arc::new(Told::default());
        let options = CopyOptions {
            listener: Some(Arc::<Told>::clone(&watch)),
            ..CopyOptions::default()
        };
        copy_with(&source, &client, &digest, repository, &options)
            .await
            .unwrap();
        let told = watch.0.lock().unwrap().clone();
        assert_eq!(told[0], "known 2 200012");
        let arrived = told.iter().filter_map(|told| told.strip_prefix("arrived "));
        assert_eq!(
            arrived.map(|n| n.parse::<u64>().unwrap()).sum::<u64>(),
            bytes
        );
        let mut ended: Vec<&str> = told
            .iter()
            .filter(|told| told.starts_with(char::is_uppercase))
            .map(String::as_str)
            .collect();
        ended.sort_unstable();
        assert_eq!(ended, blobs);
        let manifests = told.iter().filter(|told| *told == "manifest").count();
        assert_eq!(manifests, usize::from(!blobs[0].starts_with("Skipped")));
    }
}
