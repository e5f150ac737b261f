//! What a poll means, given what was known: moves, first sight, disappearance.
//!
//! A move gets its number in the entry before it is told, and counts once it was told. So polls that overlap, or one
//! that dies between, never give one number to two moves, nor two numbers to one.

use chrono::{DateTime, Utc};
use sluice_domain::resources::{Mirror, OnDelete};
use sluice_domain::{Digest, Tag};
use sluice_events::facts::{UpstreamTagGone, UpstreamTagMoved};
use sluice_events::wire::state::{FirstSeen, Move, PendingMove, UpstreamTag};
use sluice_events::{Event, time_from_wire, time_to_wire};

/// How many moves and first sights an entry keeps.
const KEPT: usize = 50;

/// What was seen of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It points to this.
    At(Digest),
    /// It is no longer there.
    Gone,
    /// Nobody knows.
    Nothing,
}

/// The event of a move, with the number of the move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TagMove {
    /// The fact.
    pub(crate) fact: Event,
    /// Which move of the tag it is.
    pub(crate) move_number: u64,
}

/// The state of a tag after the moves that are not published yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TagState<'a> {
    /// What it points to, empty where it is gone or was never seen.
    pub(crate) digest: &'a str,
    source: &'a str,
    repository: &'a str,
    pub(crate) move_number: u64,
}

impl<'a> TagState<'a> {
    /// Reads it from an entry.
    pub(crate) fn of(entry: &'a UpstreamTag) -> Self {
        match entry.pending.last() {
            Some(pending) => Self {
                digest: &pending.digest,
                source: &pending.source,
                repository: &pending.repository,
                move_number: pending.move_number,
            },
            None => Self {
                digest: if entry.gone { "" } else { &entry.digest },
                source: &entry.source,
                repository: &entry.repository,
                move_number: entry.move_number,
            },
        }
    }

    /// Says whether it is known of this mirror as it is now, and not as it was before it led elsewhere.
    pub(crate) fn is_of(&self, mirror: &Mirror) -> bool {
        self.source == mirror.from.to_string() && self.repository == mirror.to.as_str()
    }
}

/// Returns the move that leads from what is known of a tag to what was seen of it, if there was one.
pub(crate) fn next(
    mirror: &Mirror,
    entry: &UpstreamTag,
    seen: &Seen,
    now: DateTime<Utc>,
) -> Option<PendingMove> {
    let before = TagState::of(entry);
    let (digest, source, repository) = match seen {
        Seen::Nothing => return None,
        Seen::At(digest) if digest.as_str() == before.digest && before.is_of(mirror) => {
            return None;
        }
        Seen::At(digest) => (
            digest.to_string(),
            mirror.from.to_string(),
            mirror.to.to_string(),
        ),
        Seen::Gone if before.digest.is_empty() => return None,
        // It is gone where it was.
        Seen::Gone => (
            String::new(),
            before.source.to_owned(),
            before.repository.to_owned(),
        ),
    };
    Some(PendingMove {
        digest,
        move_number: before.move_number + 1,
        at: Some(time_to_wire(now)),
        source,
        repository,
        urgent: false,
    })
}

/// Returns the facts of the moves that are not told yet, and what the entry is once they are.
pub(crate) fn told(mirror: &Mirror, tag: &Tag, entry: &UpstreamTag) -> (Vec<TagMove>, UpstreamTag) {
    let mut entry = entry.clone();
    entry.mirror = mirror.name.to_string();
    entry.tag = tag.to_string();
    let mut all = Vec::new();
    for pending in std::mem::take(&mut entry.pending) {
        let move_number = pending.move_number;
        let fact = tell(mirror, tag, &mut entry, pending);
        all.push(TagMove { fact, move_number });
    }
    (all, entry)
}

/// Lets one move count, and returns its fact: always the same one, whoever tells it.
fn tell(mirror: &Mirror, tag: &Tag, entry: &mut UpstreamTag, pending: PendingMove) -> Event {
    let source = pending.source.parse();
    let source = source.unwrap_or_else(|_| mirror.from.clone());
    let repository = pending.repository.parse();
    let repository = repository.unwrap_or_else(|_| mirror.to.clone());
    let at = time_from_wire(pending.at.as_ref()).unwrap_or_default();
    let before: Option<Digest> = entry.digest.parse().ok();
    entry.move_number = pending.move_number;
    entry.source = source.to_string();
    entry.repository = repository.to_string();
    entry.history.push(Move {
        digest: pending.digest.clone(),
        move_number: pending.move_number,
        at: pending.at,
    });
    let surplus = entry.history.len().saturating_sub(KEPT);
    entry.history.drain(..surplus);
    let was_gone = std::mem::replace(&mut entry.gone, pending.digest.is_empty());
    let Ok(digest) = pending.digest.parse::<Digest>() else {
        return UpstreamTagGone {
            mirror: mirror.name.clone(),
            source,
            repository,
            tag: tag.clone(),
            last_digest: before,
            move_number: pending.move_number,
            remove: mirror.on_delete == OnDelete::Delete,
        }
        .into();
    };
    entry.digest = pending.digest;
    UpstreamTagMoved {
        mirror: mirror.name.clone(),
        source,
        repository,
        tag: tag.clone(),
        first_seen_at: first_seen(entry, &digest, at),
        digest,
        previous: before.filter(|_| !was_gone),
        move_number: pending.move_number,
        urgent: pending.urgent,
    }
    .into()
}

/// The clock is ours: a digest that comes back keeps the time it was seen first.
fn first_seen(entry: &mut UpstreamTag, digest: &Digest, at: DateTime<Utc>) -> DateTime<Utc> {
    let known = entry
        .first_seen
        .iter()
        .find(|seen| seen.digest == digest.as_str());
    if let Some(at) = known.and_then(|seen| time_from_wire(seen.at.as_ref())) {
        return at;
    }
    entry.first_seen.push(FirstSeen {
        digest: digest.to_string(),
        at: Some(time_to_wire(at)),
    });
    let surplus = entry.first_seen.len().saturating_sub(KEPT);
    entry.first_seen.drain(..surplus);
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(more: &str) -> Mirror {
        let text = format!("kind: Mirror\nname: a\nfrom: docker.io/library/a\nto: hub/a\n{more}");
        match sluice_domain::resources::documents(&text)
            .unwrap()
            .remove(0)
            .resource
        {
            sluice_domain::resources::Resource::Mirror(mirror) => mirror,
            _ => unreachable!(),
        }
    }

    fn tag() -> Tag {
        "1".parse().unwrap()
    }

    fn digest(fill: &str) -> Digest {
        format!("sha256:{}", fill.repeat(64)).parse().unwrap()
    }

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    /// What a poll that nothing disturbs tells and records.
    fn poll(entry: &mut UpstreamTag, seen: &Seen, second: i64) -> Option<Event> {
        let mirror = mirror("on_delete: delete\n");
        let pending = next(&mirror, entry, seen, at(second))?;
        entry.pending.push(pending);
        let (mut facts, settled) = told(&mirror, &tag(), entry);
        *entry = settled;
        assert_eq!(facts.len(), 1);
        facts.pop().map(|told| told.fact)
    }

    fn moved(event: Option<Event>) -> UpstreamTagMoved {
        match event {
            Some(Event::UpstreamTagMoved(fact)) => fact,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn moves_are_counted_and_first_sight_is_kept() {
        let mut entry = UpstreamTag::default();
        let (a, b) = (Seen::At(digest("a")), Seen::At(digest("b")));
        assert!(poll(&mut entry, &Seen::Gone, 0).is_none());
        let fact = moved(poll(&mut entry, &a, 1));
        assert_eq!((fact.move_number, fact.previous), (1, None));
        assert!(poll(&mut entry, &a, 2).is_none());
        let fact = moved(poll(&mut entry, &b, 3));
        assert_eq!((fact.move_number, fact.previous), (2, Some(digest("a"))));
        let fact = moved(poll(&mut entry, &a, 4));
        assert_eq!((fact.move_number, fact.first_seen_at), (3, at(1)));
        let Some(Event::UpstreamTagGone(fact)) = poll(&mut entry, &Seen::Gone, 5) else {
            panic!("it is gone");
        };
        assert_eq!((fact.move_number, fact.last_digest), (4, Some(digest("a"))));
        assert!(fact.remove);
        assert!(poll(&mut entry, &Seen::Gone, 6).is_none());
        let fact = moved(poll(&mut entry, &a, 7));
        assert_eq!((fact.move_number, fact.previous), (5, None));
        let numbers: Vec<u64> = entry.history.iter().map(|m| m.move_number).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_move_that_is_not_told_yet_keeps_its_number_and_the_next_one_follows() {
        let mirror = mirror("");
        let mut entry = UpstreamTag::default();
        let (a, b) = (Seen::At(digest("a")), Seen::At(digest("b")));
        entry.pending.extend(next(&mirror, &entry, &a, at(1)));
        // Another poll sees the same, and a third one sees the tag at another digest by now.
        assert_eq!(next(&mirror, &entry, &a, at(2)), None);
        let (first, _) = told(&mirror, &tag(), &entry);
        entry.pending.extend(next(&mirror, &entry, &b, at(3)));
        let (both, settled) = told(&mirror, &tag(), &entry);
        assert_eq!(both.first(), first.first());
        let numbers: Vec<u64> = both.iter().map(|told| told.move_number).collect();
        assert_eq!(numbers, [1, 2]);
        assert_eq!(
            (settled.digest.as_str(), settled.move_number),
            (digest("b").as_str(), 2)
        );
        assert!(settled.pending.is_empty());
    }

    #[test]
    fn a_mirror_that_leads_elsewhere_now_brings_what_it_has_there() {
        let mut entry = UpstreamTag::default();
        let a = Seen::At(digest("a"));
        poll(&mut entry, &a, 1).unwrap();
        let mut elsewhere = mirror("");
        elsewhere.to = "hub/b".parse().unwrap();
        let pending = next(&elsewhere, &entry, &a, at(2)).unwrap();
        assert_eq!(
            (pending.move_number, pending.repository.as_str()),
            (2, "hub/b")
        );
        let pending = next(&elsewhere, &entry, &Seen::Gone, at(2)).unwrap();
        assert_eq!(pending.repository, "hub/a", "it is gone where it was");
    }

    #[test]
    fn histories_stay_bounded() {
        let mut entry = UpstreamTag::default();
        for turn in 0..200 {
            let digest = digest(if turn % 2 == 0 { "a" } else { "b" });
            poll(&mut entry, &Seen::At(digest), 1).unwrap();
        }
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
