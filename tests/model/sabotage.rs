//! A mirror worker or pruner that somebody took over: it writes whatever its account at NATS lets it.

use chrono::TimeDelta;
use sluice_events::time_to_wire;
use sluice_events::wire::state::{Claim, Promotion, TagEntry, Tombstone};
use sluice_state::key;

use crate::history::History;
use crate::images::{POOL, short};
use crate::stages::at_once;
use sluice_tests::seeded_random::SeededRandom;

const REPOSITORIES: [&str; 6] = [
    "hub/a",
    "hub/b",
    "official/a",
    "official/b",
    "approved/a",
    "approved/b",
];
const TAGS: [&str; 8] = ["1", "2", "3", "b-1", "b-2", "v-1", "v-2", "c-1"];

/// Writes one thing that is not true.
pub fn act(history: &History) {
    let (repository, tag, entry, line) = {
        let mut world = history.shared.lock();
        let now = world.now;
        world.lied_to = true;
        let random = &mut world.random;
        let (repository, tag) = (random.pick(&REPOSITORIES), random.pick(&TAGS));
        let entry = (!random.percent(15)).then(|| forged(random, now, repository, tag));
        let line = format!("a service writes over {repository}:{tag}: {entry:?}");
        (repository, tag, entry, line)
    };
    history.shared.lock().note(&short(&line));
    at_once(&history.shared, async {
        let key = key::tag(&repository.parse().unwrap(), &tag.parse().unwrap());
        let tags = &history.state.tags;
        match entry {
            Some(entry) => drop(tags.put(&key, &entry).await.unwrap()),
            None => tags.delete(&key).await.unwrap(),
        }
        let digest = history
            .shared
            .lock()
            .random
            .pick(&POOL.iter().collect::<Vec<_>>());
        let tombstone = Tombstone {
            digest: digest.digest.clone(),
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            ..Default::default()
        };
        let key = key::image(&digest.digest.parse().unwrap());
        history
            .state
            .tombstones
            .put(&key, &tombstone)
            .await
            .unwrap();
    });
}

fn forged(
    random: &mut SeededRandom,
    now: chrono::DateTime<chrono::Utc>,
    repository: &str,
    tag: &str,
) -> TagEntry {
    let images: Vec<&str> = POOL.iter().map(|image| image.digest.as_str()).collect();
    let some = |random: &mut SeededRandom| {
        let digest = random.pick(&images).to_owned();
        if random.percent(15) {
            String::new()
        } else {
            digest
        }
    };
    let promoted_from = random.percent(50).then(|| Promotion {
        policy: random.pick(&["gate", "second", "renamed"]).to_owned(),
        repository: random.pick(&["hub/a", "hub/b"]).to_owned(),
        tag: random.pick(&TAGS[..3]).to_owned(),
        decided_at: Some(time_to_wire(now)),
    });
    let claim = random.percent(25).then(|| Claim {
        digest: some(random),
        holder: "promoter/somebody".to_owned(),
        until: Some(time_to_wire(now + TimeDelta::seconds(45))),
        promoted_from: promoted_from.clone(),
        ..Default::default()
    });
    TagEntry {
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        digest: some(random),
        generation: 1 + random.number() % 3,
        claim,
        arrived_at: Some(time_to_wire(now - TimeDelta::hours(2))),
        arrived_by: random
            .pick(&["promoter", "mirror-worker", "pruner"])
            .to_owned(),
        mirror: random.pick(&["", "a", "b"]).to_owned(),
        promoted_from,
        pruned: random.percent(20),
        previous: some(random),
        ..Default::default()
    }
}
