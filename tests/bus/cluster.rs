//! Buckets with a copy on each of three servers.

use std::time::Duration;

use sluice_bus::ProvisionOptions;
use sluice_tests::Nats;
use tokio::time::sleep;

use crate::connect;

/// A direct read by a server that is not the leader is older than the write before it in several of a hundred cases.
const WRITES: u32 = 300;

#[tokio::test]
async fn what_was_written_is_what_is_read_at_every_server() {
    let nodes = tokio::task::spawn_blocking(Nats::cluster).await.unwrap();
    let options = ProvisionOptions {
        replicas: 3,
        ..ProvisionOptions::default()
    };
    let first = connect(&nodes[0]).await;
    // Until the servers have found each other.
    while let Err(error) = first.provision(options).await {
        eprintln!("{error}");
        sleep(Duration::from_millis(500)).await;
    }
    for node in &nodes {
        let bucket = connect(node).await.bucket("tags").await.unwrap();
        assert_eq!(bucket.get("none").await.unwrap(), None);
        for number in 0..WRITES {
            let written = bucket.put("key", number.to_string().into()).await.unwrap();
            let read = bucket.get("key").await.unwrap().unwrap();
            assert_eq!(
                (read.revision, read.value),
                (written, number.to_string().into())
            );
        }
        bucket.delete("key").await.unwrap();
        assert_eq!(bucket.get("key").await.unwrap(), None);
    }
}
