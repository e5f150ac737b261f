//! Snapshots of streams: everything comes back, and of what is damaged nothing stays.

use bytes::Bytes;
use sluice_bus::StreamSnapshot;

use super::*;

/// Takes a snapshot in chunks of what the server sends.
async fn taken(bus: &Bus, name: &str) -> (StreamSnapshot, Vec<Bytes>) {
    let mut chunks = Vec::new();
    let snapshot = bus
        .snapshot_stream(name, |chunk| {
            chunks.push(Bytes::copy_from_slice(chunk));
            Ok(())
        })
        .await
        .unwrap();
    (snapshot, chunks)
}

/// Says whether the audit holds so many facts; once more what it has already would be too many.
async fn audited(bus: &Bus, count: u64) -> bool {
    let streams = bus.streams().await.unwrap();
    let mut audit = streams.iter().filter(|one| one.name == topology::AUDIT);
    let messages = audit.next().unwrap().messages;
    assert!(messages <= count, "{messages} facts are audited");
    messages == count
}

async fn given(
    bus: &Bus,
    snapshot: &StreamSnapshot,
    chunks: &[Bytes],
) -> Result<(), sluice_bus::Error> {
    let mut chunks = chunks.iter().cloned();
    bus.restore_stream(snapshot, || Ok(chunks.next())).await
}

/// Returns what cannot be compressed, and is the same each time.
fn noise(mut seed: u64, length: usize) -> Vec<u8> {
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()
    };
    std::iter::repeat_with(&mut next)
        .flatten()
        .take(length)
        .collect()
}

#[tokio::test]
async fn a_stream_comes_back_with_revisions_and_with_what_is_acknowledged() {
    let (_nats, bus) = provisioned().await;
    let bucket = bus.bucket("tags").await.unwrap();
    let first = bucket.put("a.b", "one".into()).await.unwrap();
    let second = bucket
        .write("a.b", "two".into(), Some(first))
        .await
        .unwrap();
    bucket.put("c.d", "gone".into()).await.unwrap();
    bucket.delete("c.d").await.unwrap();
    let done = Stage::default();
    ask(&bus, "done").await;
    work(&bus, &done, 1).await;
    until("the audit", || audited(&bus, 1)).await;
    ask(&bus, "waiting").await;
    // More than the server sends without an acknowledgement, and many chunks.
    let reports = bus.reports().await.unwrap();
    let large = noise(7, 24 << 20);
    reports.put("large", large.clone().into()).await.unwrap();
    let mut saved = Vec::new();
    for name in topology::backup_order() {
        saved.push(taken(&bus, name).await);
    }
    let chunks = &saved.last().unwrap().1;
    assert!(chunks.len() > 100, "{} chunks", chunks.len());
    for (snapshot, _) in &saved {
        bus.delete_stream(&snapshot.name).await.unwrap();
    }
    assert!(bus.streams().await.unwrap().is_empty());
    // The audit follows the log, so it comes after it.
    saved.rotate_left(1);
    for (snapshot, chunks) in &saved {
        given(&bus, snapshot, chunks).await.unwrap();
    }
    assert_eq!(bus.streams().await.unwrap().len(), saved.len());
    let entry = bucket.get("a.b").await.unwrap().unwrap();
    assert_eq!((&*entry.value, entry.revision), (&b"two"[..], second));
    assert!(bucket.get("c.d").await.unwrap().is_none());
    // Whoever read it before the backup can write it after the restore.
    bucket
        .write("a.b", "three".into(), Some(second))
        .await
        .unwrap();
    assert_eq!(reports.get("large").await.unwrap(), large);
    assert_eq!(told(&bus).await.len(), 1);
    let rest = Stage::default();
    work(&bus, &rest, 2).await;
    let calls = rest.calls.load(Ordering::SeqCst);
    assert_eq!(calls, 1, "only what was waiting");
    until("the audit to go on", || audited(&bus, 2)).await;
    // The topology is as it was.
    let options = ProvisionOptions::default();
    assert_eq!(bus.provision(options).await.unwrap(), []);
}

#[tokio::test]
async fn of_a_damaged_snapshot_nothing_stays() {
    let (_nats, bus) = provisioned().await;
    let bucket = bus.bucket("tags").await.unwrap();
    for number in 0..2_000 {
        let value = noise(number + 1, 500);
        bucket
            .put(&format!("key.{number}"), value.into())
            .await
            .unwrap();
    }
    let (snapshot, chunks) = taken(&bus, "KV_tags").await;
    assert!(chunks.len() > 4);
    // While it is there it is not replaced.
    let error = given(&bus, &snapshot, &chunks).await.unwrap_err();
    assert!(
        error.to_string().contains("failed to restore `KV_tags`"),
        "{error}"
    );
    assert_eq!(bucket.list(">").await.unwrap().len(), 2_000);
    bus.delete_stream("KV_tags").await.unwrap();
    let mut flipped = chunks.clone();
    let middle = flipped.len() / 2;
    let mut bytes = flipped[middle].to_vec();
    bytes[10] ^= 1;
    flipped[middle] = bytes.into();
    for damaged in [flipped.as_slice(), &chunks[..middle]] {
        given(&bus, &snapshot, damaged).await.unwrap_err();
        let names: Vec<_> = bus.streams().await.unwrap();
        assert!(names.iter().all(|stream| stream.name != "KV_tags"));
    }
    given(&bus, &snapshot, &chunks).await.unwrap();
    assert_eq!(bucket.list(">").await.unwrap().len(), 2_000);
}

#[tokio::test]
async fn a_stage_that_rests_takes_up_nothing_until_it_goes_on() {
    let (_nats, bus) = provisioned().await;
    let later = Utc::now() + chrono::TimeDelta::minutes(10);
    bus.pause_consumers(later).await.unwrap();
    ask(&bus, "resting").await;
    let stage = Stage::default();
    let stopping = CancellationToken::new();
    let settings = ConsumeSettings {
        concurrency: 1,
        handler_timeout: Duration::from_secs(5),
    };
    let working = tokio::spawn({
        let (bus, stage, stopping) = (bus.clone(), stage.clone(), stopping.clone());
        async move {
            bus.consume(&topology::POLLER, stage, settings, stopping)
                .await
        }
    });
    until("the stage to wait for work", || async {
        bus.running_stages().await.unwrap().contains(&"poller")
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(stage.calls.load(Ordering::SeqCst), 0);
    bus.resume_consumers().await.unwrap();
    until("the work", || async { told(&bus).await.len() == 1 }).await;
    stopping.cancel();
    working.await.unwrap().unwrap();
}
