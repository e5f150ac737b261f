//! What moves upstream arrives in staging, untouched and once.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use prost::Message as _;
use sluice_events::wire::events::MirrorProgress;
use sluice_tests::{Stack, Upstream, wait_for};

fn arrived(reader: &Upstream, repository: &str, reference: &str, digest_of: &[u8]) {
    wait_for(&format!("{repository}:{reference} to arrive"), 60, || {
        (reader.get(repository, reference)? == digest_of).then_some(())
    });
}

#[test]
fn an_index_arrives_byte_for_byte_with_every_child() {
    let mut stack = Stack::start(7_200);
    let publisher = stack.publisher();
    let amd64 = publisher.image("library/multi", "amd64", "amd64 content");
    let arm64 = publisher.image("library/multi", "arm64", "arm64 content");
    let index = publisher.index("library/multi", &[("amd64", &amd64), ("arm64", &arm64)]);
    publisher.put("library/multi", "1.0", &index);
    stack.service("poller", &[]);
    stack.service("mirror-worker", &[]);
    stack.apply(&format!(
        "{}{}",
        stack.upstream_resource(),
        stack.mirror("multi", "library/multi", "hub/multi", "")
    ));
    let reader = stack.reader();
    arrived(&reader, "hub/multi", "1.0", &index.raw);
    for manifest in [&index, &amd64, &arm64] {
        assert_eq!(
            reader.get("hub/multi", &manifest.digest).unwrap(),
            manifest.raw
        );
    }
    wait_for("the fact", 20, || {
        (stack.events("tag.mirrored").len() == 1).then_some(())
    });
    let explained = stack.sluice(&["explain", "hub/multi:1.0"]);
    for told in ["upstream.tag_moved", "tag.mirrored", &index.digest] {
        assert!(explained.contains(told), "{explained}");
    }
}

#[test]
fn a_moved_tag_arrives_and_its_sibling_stays() {
    let mut stack = Stack::start(7_200);
    let publisher = stack.publisher();
    let first = publisher.image("library/app", "amd64", "first");
    publisher.put("library/app", "1.0", &first);
    publisher.put("library/app", "1.1", &first);
    publisher.put("library/app", "edge", &first);
    stack.service("poller", &[]);
    stack.service("mirror-worker", &[]);
    let mirror = stack.mirror(
        "app",
        "library/app",
        "hub/app",
        "tags: { exclude: [edge] }\nevery: 2s\n",
    );
    stack.apply(&format!("{}{mirror}", stack.upstream_resource()));
    let reader = stack.reader();
    arrived(&reader, "hub/app", "1.0", &first.raw);
    arrived(&reader, "hub/app", "1.1", &first.raw);
    let second = publisher.image("library/app", "amd64", "second");
    publisher.put("library/app", "1.0", &second);
    arrived(&reader, "hub/app", "1.0", &second.raw);
    assert_eq!(reader.get("hub/app", "1.1").unwrap(), first.raw);
    assert_eq!(
        reader.get("hub/app", "edge"),
        None,
        "an excluded tag was mirrored"
    );
    let moves = wait_for("both moves to be told", 20, || {
        Some(stack.events("upstream.tag_moved")).filter(|m| m.len() == 3)
    });
    assert_eq!(moves[2]["data"]["moveNumber"], 2);
    assert_eq!(moves[2]["data"]["previous"], first.digest);
}

#[test]
fn a_tag_that_is_gone_upstream_goes_only_where_the_mirror_asks_for_it() {
    let mut stack = Stack::start(7_200);
    let publisher = stack.publisher();
    let (gone, stays) = (
        publisher.image("a/x", "amd64", "gone"),
        publisher.image("a/x", "amd64", "stays"),
    );
    publisher.put("a/x", "gone", &gone);
    publisher.put("a/x", "stays", &stays);
    stack.service("poller", &[]);
    stack.service("mirror-worker", &[]);
    let deleting = stack.mirror(
        "deleting",
        "a/x",
        "hub/deleting",
        "every: 2s\non_delete: delete\n",
    );
    let keeping = stack.mirror("keeping", "a/x", "hub/keeping", "every: 2s\n");
    stack.apply(&format!("{}{deleting}{keeping}", stack.upstream_resource()));
    let reader = stack.reader();
    for repository in ["hub/deleting", "hub/keeping"] {
        arrived(&reader, repository, "gone", &gone.raw);
        arrived(&reader, repository, "stays", &stays.raw);
    }
    publisher.delete("a/x", &gone.digest);
    wait_for("the tag to go", 30, || {
        reader.get("hub/deleting", "gone").is_none().then_some(())
    });
    assert_eq!(reader.get("hub/deleting", "stays").unwrap(), stays.raw);
    wait_for("both disappearances to be told", 20, || {
        (stack.events("upstream.tag_gone").len() == 2).then_some(())
    });
    assert_eq!(reader.get("hub/keeping", "gone").unwrap(), gone.raw);
    // Deletion by digest would take every tag of that digest; the image itself must still be there.
    assert_eq!(reader.get("hub/deleting", &gone.digest).unwrap(), gone.raw);
}

#[test]
fn a_tag_that_is_gone_upstream_stays_while_another_mirror_brings_it() {
    let mut stack = Stack::start(7_200);
    let publisher = stack.publisher();
    let (one, two) = (
        publisher.image("a/one", "amd64", "one"),
        publisher.image("a/two", "amd64", "one"),
    );
    for (repository, image) in [("a/one", &one), ("a/two", &two)] {
        publisher.put(repository, "shared", image);
        publisher.put(repository, repository.trim_start_matches("a/"), image);
    }
    let only = publisher.image("a/one", "amd64", "only");
    publisher.put("a/one", "only", &only);
    stack.service("poller", &[]);
    stack.service("mirror-worker", &[]);
    let deleting = "every: 2s\non_delete: delete\n";
    let first = stack.mirror("first", "a/one", "hub/app", deleting);
    let second = stack.mirror("second", "a/two", "hub/app", deleting);
    stack.apply(&format!("{}{first}{second}", stack.upstream_resource()));
    let reader = stack.reader();
    for (tag, image) in [("one", &one), ("two", &two), ("only", &only)] {
        arrived(&reader, "hub/app", tag, &image.raw);
    }
    wait_for("both mirrors to have seen it", 30, || {
        let moves = stack.events("upstream.tag_moved");
        let shared = moves.iter().filter(|fact| fact["data"]["tag"] == "shared");
        (shared.count() == 2).then_some(())
    });
    arrived(&reader, "hub/app", "shared", &one.raw);
    publisher.delete("a/one", &one.digest);
    publisher.delete("a/one", &only.digest);
    publisher.put("a/one", "new", &publisher.image("a/one", "amd64", "new"));
    for tag in ["one", "only"] {
        wait_for("what only the first mirror had to go", 30, || {
            reader.get("hub/app", tag).is_none().then_some(())
        });
    }
    wait_for("three disappearances to be told", 20, || {
        (stack.events("upstream.tag_gone").len() == 3).then_some(())
    });
    wait_for("everything to be done", 60, || {
        stack.is_quiet().then_some(())
    });
    assert_eq!(reader.get("hub/app", "shared").unwrap(), two.raw);
}

#[test]
fn forty_tags_arrive_once_each_although_workers_are_killed() {
    // A duplicate window of one second leaves the once to the state.
    let mut stack = Stack::quick(1);
    let publisher = stack.publisher();
    let mut expected = Vec::new();
    let mut resources = stack.upstream_resource();
    for number in 0..8 {
        let from = format!("library/app{number}");
        for tag in 0..5 {
            let image = publisher.image(&from, "amd64", &format!("{number} {tag}"));
            publisher.put(&from, &format!("1.{tag}"), &image);
            expected.push((format!("hub/app{number}"), format!("1.{tag}"), image));
        }
        resources += &stack.mirror(
            &format!("app{number}"),
            &from,
            &format!("hub/app{number}"),
            "every: 2s\n",
        );
    }
    stack.service("poller", &[]);
    let workers = [
        stack.service("mirror-worker", &[]),
        stack.service("mirror-worker", &[]),
    ];
    stack.apply(&resources);
    let reader = stack.reader();
    for worker in workers {
        wait_for("work to be going on", 30, || {
            (!stack.events("tag.mirrored").is_empty()).then_some(())
        });
        stack.kill(worker);
        stack.service("mirror-worker", &[]);
    }
    for (repository, tag, image) in &expected {
        arrived(&reader, repository, tag, &image.raw);
    }
    // A killed worker's message comes back after `ack_wait`, which is 1 s here.
    wait_for("every stage to be done", 90, || {
        stack.is_quiet().then_some(())
    });
    let mirrored = stack.events("tag.mirrored");
    let ids: BTreeSet<_> = mirrored.iter().map(|fact| fact["id"].to_string()).collect();
    assert_eq!(ids.len(), 40, "each tag is told");
    let moved = stack.events("upstream.tag_moved");
    assert_eq!(moved.len(), 40, "no move is told twice");
}

#[test]
fn a_layer_of_one_gibibyte_is_copied_in_little_memory() {
    let mut stack = Stack::start(7_200);
    let publisher = stack.publisher();
    let layer = publisher.large_layer("library/big", 1 << 30);
    let image = publisher.image_of("library/big", layer);
    publisher.put("library/big", "1.0", &image);
    stack.service("poller", &[]);
    let worker = stack.service("mirror-worker", &[]);
    stack.apply(&format!(
        "{}{}",
        stack.upstream_resource(),
        stack.mirror("big", "library/big", "hub/big", "")
    ));
    let reader = stack.reader();
    wait_for("the large image to arrive", 300, || {
        (reader.get("hub/big", "1.0")? == image.raw).then_some(())
    });
    let status = fs::read_to_string(format!("/proc/{}/status", stack.process_id(worker))).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak_kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 64 << 10, "the worker needed {peak_kib} KiB");
}

/// Listens to what a subject brings, until a message is the last word.
fn progress(url: &str) -> impl FnOnce() -> Vec<MirrorProgress> + use<> {
    let address = url.strip_prefix("nats://").unwrap();
    let mut writer = TcpStream::connect(address).unwrap();
    writer
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let mut reader = BufReader::new(writer.try_clone().unwrap());
    let connect =
        "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB sluice.progress.> 1\r\nPING\r\n";
    writer.write_all(connect.as_bytes()).unwrap();
    let mut line = String::new();
    while line != "PONG\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    move || {
        let mut told: Vec<MirrorProgress> = Vec::new();
        while told.last().is_none_or(|last| !last.ended) {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let Some(words) = line.strip_prefix("MSG ") else {
                continue;
            };
            assert!(words.starts_with("sluice.progress.mirror.hub.app "));
            let size: usize = words.trim().rsplit(' ').next().unwrap().parse().unwrap();
            let mut body = vec![0; size + 2];
            reader.read_exact(&mut body).unwrap();
            told.push(MirrorProgress::decode(&body[..size]).unwrap());
        }
        told
    }
}

#[test]
fn how_a_copy_goes_on_is_told_to_whoever_listens_and_stored_nowhere() {
    let mut stack = Stack::start(7_200);
    let publisher = stack.publisher();
    let image = publisher.image("library/app", "amd64", "content");
    publisher.put("library/app", "1.0", &image);
    let heard = progress(&stack.nats.url);
    stack.service("poller", &[]);
    stack.service("mirror-worker", &[]);
    stack.apply(&format!(
        "{}{}",
        stack.upstream_resource(),
        stack.mirror("app", "library/app", "hub/app", "")
    ));
    let told = heard();
    let last = told.last().unwrap();
    assert_eq!(
        (last.repository.as_str(), last.tag.as_str()),
        ("hub/app", "1.0")
    );
    assert_eq!(last.digest, image.digest);
    assert_eq!((last.blobs, last.blobs_copied), (2, 2));
    assert!(last.bytes > 0 && last.bytes_done == last.bytes, "{last:?}");
    arrived(&stack.reader(), "hub/app", "1.0", &image.raw);
    wait_for("the fact", 20, || {
        (stack.events("tag.mirrored").len() == 1).then_some(())
    });
}
