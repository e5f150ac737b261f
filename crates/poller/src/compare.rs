//! What a poll means, given what was known: moves, first sight, disappearance.

use chrono::{DateTime, Utc};
use sluice_domain::resources::Mirror;
use sluice_domain::{Digest, Tag};
use sluice_events::facts::{UpstreamTagGone, UpstreamTagMoved};
use sluice_events::wire::state::{FirstSeen, Move, UpstreamTag};
use sluice_events::{time_from_wire, time_to_wire};

/// How many moves and first sights an entry keeps.
const KEPT: usize = 50;

/// Returns what to tell and what to record when a tag points to `digest`; nothing if it did before.
pub(crate) fn seen(
    mirror: &Mirror,
    tag: &Tag,
    known: Option<&UpstreamTag>,
    digest: &Digest,
    now: DateTime<Utc>,
) -> Option<(UpstreamTagMoved, UpstreamTag)> {
    let mut entry = known.cloned().unwrap_or_default();
    if entry.digest == digest.as_str() && !entry.gone {
        return None;
    }
    let previous = entry.digest.parse().ok().filter(|_| !entry.gone);
    let first_seen_at = first_seen(&mut entry, digest, now);
    entry.move_number += 1;
    entry.mirror = mirror.name.to_string();
    entry.source = mirror.from.to_string();
    entry.repository = mirror.to.to_string();
    entry.tag = tag.to_string();
    entry.digest = digest.to_string();
    entry.gone = false;
    remember(&mut entry, digest.to_string(), now);
    let fact = UpstreamTagMoved {
        mirror: mirror.name.clone(),
        source: mirror.from.clone(),
        repository: mirror.to.clone(),
        tag: tag.clone(),
        digest: digest.clone(),
        previous,
        move_number: entry.move_number,
        first_seen_at,
    };
    Some((fact, entry))
}

/// Returns what to tell and what to record when a tag is no longer listed; nothing if that is known.
pub(crate) fn gone(
    mirror: &Mirror,
    tag: &Tag,
    known: &UpstreamTag,
    remove: bool,
    now: DateTime<Utc>,
) -> Option<(UpstreamTagGone, UpstreamTag)> {
    if known.gone {
        return None;
    }
    let mut entry = known.clone();
    entry.move_number += 1;
    entry.gone = true;
    remember(&mut entry, String::new(), now);
    let fact = UpstreamTagGone {
        mirror: mirror.name.clone(),
        source: mirror.from.clone(),
        repository: mirror.to.clone(),
        tag: tag.clone(),
        last_digest: entry.digest.parse().ok(),
        move_number: entry.move_number,
        remove,
    };
    Some((fact, entry))
}

/// The clock is ours: a digest that comes back keeps the time it was seen first.
fn first_seen(entry: &mut UpstreamTag, digest: &Digest, now: DateTime<Utc>) -> DateTime<Utc> {
    let known = entry
        .first_seen
        .iter()
        .find(|seen| seen.digest == digest.as_str());
    if let Some(at) = known.and_then(|seen| time_from_wire(seen.at.as_ref())) {
        return at;
    }
    entry.first_seen.push(FirstSeen {
        digest: digest.to_string(),
        at: Some(time_to_wire(now)),
    });
    let surplus = entry.first_seen.len().saturating_sub(KEPT);
    entry.first_seen.drain(..surplus);
    now
}

fn remember(entry: &mut UpstreamTag, digest: String, now: DateTime<Utc>) {
    entry.history.push(Move {
        digest,
        move_number: entry.move_number,
        at: Some(time_to_wire(now)),
    });
    let surplus = entry.history.len().saturating_sub(KEPT);
    entry.history.drain(..surplus);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror() -> Mirror {
        let text = "kind: Mirror\nname: a\nfrom: docker.io/library/a\nto: hub/a\n";
        match sluice_domain::resources::documents(text)
            .unwrap()
            .remove(0)
            .resource
        {
            sluice_domain::resources::Resource::Mirror(mirror) => mirror,
            _ => unreachable!(),
        }
    }

    fn digest(fill: &str) -> Digest {
        format!("sha256:{}", fill.repeat(64)).parse().unwrap()
    }

    #[test]
    fn moves_are_counted_and_first_sight_is_kept() {
        let (mirror, tag) = (mirror(), "1".parse().unwrap());
        let at = |second| DateTime::from_timestamp(second, 0).unwrap();
        let (fact, entry) = seen(&mirror, &tag, None, &digest("a"), at(1)).unwrap();
        assert_eq!((fact.move_number, fact.previous), (1, None));
        assert!(seen(&mirror, &tag, Some(&entry), &digest("a"), at(2)).is_none());
        let (fact, entry) = seen(&mirror, &tag, Some(&entry), &digest("b"), at(3)).unwrap();
        assert_eq!((fact.move_number, fact.previous), (2, Some(digest("a"))));
        let (fact, entry) = seen(&mirror, &tag, Some(&entry), &digest("a"), at(4)).unwrap();
        assert_eq!((fact.move_number, fact.first_seen_at), (3, at(1)));
        let (fact, entry) = gone(&mirror, &tag, &entry, true, at(5)).unwrap();
        assert_eq!((fact.move_number, fact.last_digest), (4, Some(digest("a"))));
        assert!(gone(&mirror, &tag, &entry, true, at(6)).is_none());
        let (fact, _) = seen(&mirror, &tag, Some(&entry), &digest("a"), at(7)).unwrap();
        assert_eq!((fact.move_number, fact.previous), (5, None));
    }

    #[test]
    fn histories_stay_bounded() {
        let (mirror, tag) = (mirror(), "1".parse().unwrap());
        let mut entry = None;
        for turn in 0..200 {
            let digest = digest(if turn % 2 == 0 { "a" } else { "b" });
            entry =
                seen(&mirror, &tag, entry.as_ref(), &digest, Utc::now()).map(|(_, entry)| entry);
        }
        let entry = entry.unwrap();
        assert_eq!(
            (
                entry.history.len(),
                entry.first_seen.len(),
                entry.move_number
            ),
            (KEPT, 2, 200)
        );
    }
}
