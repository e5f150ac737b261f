//! What happens at the same time, a thousand times each: promotion against withdrawal, retention against promotion.

mod arena;

use std::collections::BTreeMap;

use sluice_events::commands::PruneRepositories;
use sluice_state::key;
use sluice_tests::Image;

use self::arena::Arena;

const ROUNDS: usize = 1_000;

/// Two indexes that share a child.
struct Pair {
    repository: String,
    shared: Image,
    tags: BTreeMap<&'static str, [Image; 2]>,
}

#[test]
fn promotion_against_withdrawal_leaves_what_is_allowed_and_nothing_else() {
    const PAIRS: usize = 40;
    let mut arena = Arena::start(
        "kind: PromotionPolicy\nname: clean\nfrom: hub/*\nto: official/{name}\nwhen: scan.critical == 0\nrecall: withdraw\n",
    );
    arena.stage("promoter", 2, 16);
    let writer = arena.stack.as_service("mirror-worker");
    let pairs: Vec<Pair> = (0..PAIRS)
        .map(|number| {
            let repository = format!("hub/race{number}");
            let child = |name| writer.image(&repository, "amd64", &format!("{number} {name}"));
            let shared = writer.image(&repository, "arm64", &format!("{number} shared"));
            arena.verdict(&shared, 0);
            let tags = ["x", "y"].into_iter().map(|tag| {
                let own = child(tag);
                let index = writer.index(&repository, &[("amd64", &own), ("arm64", &shared)]);
                writer.put(&repository, tag, &index);
                arena.hold(&repository, tag, &index);
                (tag, [index, own])
            });
            let tags = tags.collect();
            Pair {
                repository,
                shared,
                tags,
            }
        })
        .collect();
    for _ in 0..ROUNDS.div_ceil(2 * PAIRS) {
        let mut allowed = BTreeMap::new();
        // Twice, so that what follows from the first verdict meets what follows from the second.
        for _ in 0..2 {
            for pair in &pairs {
                for (tag, [index, own]) in &pair.tags {
                    let critical = u64::from(arena.random(2) == 0);
                    arena.verdict(own, critical);
                    arena.judge(&pair.repository, tag, index);
                    allowed.insert((pair.repository.clone(), *tag), critical == 0);
                }
            }
            arena.moment();
        }
        arena.quiet();
        for pair in &pairs {
            let official = pair.repository.replace("hub/", "official/");
            let is = |tag| allowed[&(pair.repository.clone(), tag)];
            for (tag, [index, own]) in &pair.tags {
                let digest = Some(index.digest.as_str()).filter(|_| is(*tag));
                arena.expect(&official, tag, digest);
                for manifest in [index, own] {
                    let digest = Some(manifest.digest.as_str()).filter(|_| is(*tag));
                    arena.expect(&official, &manifest.digest, digest);
                }
                arena.expect(&pair.repository, tag, Some(&index.digest));
            }
            let shared = &pair.shared.digest;
            let reached = Some(shared.as_str()).filter(|_| is("x") || is("y"));
            arena.expect(&official, shared, reached);
        }
        arena.check();
    }
}

#[test]
fn retention_against_promotion_loses_nothing_that_is_kept() {
    const REPOSITORIES: usize = 50;
    let mut arena = Arena::start(
        "kind: PromotionPolicy\nname: clean\nfrom: hub/*\nto: official/{name}\nwhen: scan.critical == 0\n---\n\
         kind: PruningPolicy\nname: a\nrepositories: [hub/*]\nschedule: '0 3 1 1 *'\ndelete: tag == 'a'\n",
    );
    arena.stage("promoter", 2, 16);
    arena.stage("pruner", 2, 16);
    let writer = arena.stack.as_service("mirror-worker");
    let repositories: Vec<(String, [Image; 3])> = (0..REPOSITORIES)
        .map(|number| {
            let repository = format!("hub/race{number}");
            let images = ["first", "second", "kept"].map(|name| {
                let image = writer.image(&repository, "amd64", &format!("{number} {name}"));
                arena.verdict(&image, 0);
                image
            });
            // Another tag of the first keeps it from being anybody's to delete.
            for (tag, image) in [("b", &images[0]), ("c", &images[2])] {
                writer.put(&repository, tag, image);
                arena.hold(&repository, tag, image);
            }
            (repository, images)
        })
        .collect();
    for round in 0..ROUNDS.div_ceil(REPOSITORIES) {
        for (repository, images) in &repositories {
            writer.put(repository, "a", &images[round % 2]);
            arena.hold(repository, "a", &images[round % 2]);
        }
        for (repository, images) in &repositories {
            let prune = PruneRepositories {
                policy: Some("a".parse().unwrap()),
                repository: Some(repository.parse().unwrap()),
            };
            let prune_first = arena.random(2) == 0;
            if prune_first {
                arena.bus.command(prune.clone());
            }
            arena.judge(repository, "a", &images[round % 2]);
            if !prune_first {
                arena.bus.command(prune);
            }
        }
        arena.quiet();
        let entries = arena.entries();
        for (repository, images) in &repositories {
            let at = |repository: &str, tag: &str| {
                let key = key::tag(&repository.parse().unwrap(), &tag.parse().unwrap());
                entries.get(&key)
            };
            // Entry and registry say the same, whoever was faster.
            let entry = at(repository, "a").unwrap();
            assert!(entry.claim.is_none() && entry.pruned == entry.digest.is_empty());
            let digest = Some(entry.digest.as_str()).filter(|digest| !digest.is_empty());
            arena.expect(repository, "a", digest);
            arena.expect(repository, "b", Some(&images[0].digest));
            arena.expect(repository, "c", Some(&images[2].digest));
            let official = repository.replace("hub/", "official/");
            if let Some(entry) = at(&official, "a") {
                assert_eq!(entry.claim, None);
                arena.expect(&official, "a", Some(&entry.digest));
                arena.expect(&official, &entry.digest, Some(&entry.digest));
            }
        }
        arena.check();
    }
    let promoted = arena.stack.events("image.promoted").len();
    let pruned = arena.stack.events("prune.completed").len();
    assert!(promoted > 50 && pruned > 500, "{promoted} {pruned}");
}
