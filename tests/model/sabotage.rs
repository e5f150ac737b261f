//! A mirror worker or pruner that somebody took over: it writes whatever its account at NATS lets it.

use chrono::TimeDelta;
use sluice_events::time_to_wire;
use sluice_events::wire::state::{Claim, Promotion, TagEntry, Tombstone};
use sluice_state::key;

use crate::history::History;
use crate::images::{POOL, short};
use crate::stages::at_once;
use sluice_tests::chance::Chance;

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
        let chance = &mut world.chance;
        let (repository, tag) = (chance.pick(&REPOSITORIES), chance.pick(&TAGS));
        let entry = (!chance.percent(15)).then(|| forged(chance, now, repository, tag));
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
            .chance
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
    chance: &mut Chance,
    now: chrono::DateTime<chrono::Utc>,
    repository: &str,
    tag: &str,
) -> TagEntry {
    let images: Vec<&str> = POOL.iter().map(|image| image.digest.as_str()).collect();
    let some = |chance: &mut Chance| {
        let digest = chance.pick(&images).to_owned();
        if chance.percent(15) {
            String::new()
        } else {
            digest
        }
    };
    let promoted_from = chance.percent(50).then(|| Promotion {
        policy: chance.pick(&["gate", "second", "renamed"]).to_owned(),
        repository: chance.pick(&["hub/a", "hub/b"]).to_owned(),
        tag: chance.pick(&TAGS[..3]).to_owned(),
        decided_at: Some(time_to_wire(now)),
    });
    let claim = chance.percent(25).then(|| Claim {
        digest: some(chance),
        holder: "promoter/somebody".to_owned(),
        until: Some(time_to_wire(now + TimeDelta::seconds(45))),
        promoted_from: promoted_from.clone(),
        ..Default::default()
    });
    TagEntry {
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        digest: some(chance),
        generation: 1 + chance.number() % 3,
        claim,
        arrived_at: Some(time_to_wire(now - TimeDelta::hours(2))),
        arrived_by: chance
            .pick(&["promoter", "mirror-worker", "pruner"])
            .to_owned(),
        mirror: chance.pick(&["", "a", "b"]).to_owned(),
        promoted_from,
        pruned: chance.percent(20),
        previous: some(chance),
        ..Default::default()
    }
}
