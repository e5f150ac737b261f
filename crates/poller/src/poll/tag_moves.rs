//! The moves of an upstream tag: what an observation means, given the entry of the tag.
//!
//! A move gets its number in the entry before it is published, and counts once it is published. So polls that overlap,
//! or one that dies in between, never give one number to two moves, nor two numbers to one.

use chrono::{DateTime, Utc};
use sluice_domain::resources::{Mirror, OnDelete};
use sluice_domain::{Digest, Tag};
use sluice_events::facts::{UpstreamTagGone, UpstreamTagMoved};
use sluice_events::wire::state::{FirstSeen, Move, PendingMove, UpstreamTag};
use sluice_events::{Event, time_from_wire, time_to_wire};

/// How many moves and first sights an entry keeps.
const MAX_HISTORY: usize = 50;

/// What a check showed of a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Observation {
    /// The tag points to this digest.
    Present(Digest),
    /// The tag was deleted.
    Deleted,
    /// The check failed or was not made.
    Unknown,
}

/// The event of a move, with the number of the move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TagMove {
    pub(super) event: Event,
    /// The number of the move.
    pub(super) move_number: u64,
}

/// The state of a tag after the moves that are not published yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TagState<'a> {
    /// The digest of the tag, empty if it was deleted or never seen.
    pub(super) digest: &'a str,
    source: &'a str,
    repository: &'a str,
    pub(super) move_number: u64,
}

impl<'a> TagState<'a> {
    /// Reads the state from an entry.
    pub(super) fn of(entry: &'a UpstreamTag) -> Self {
        match entry.pending.last() {
            Some(pending) => Self {
                digest: &pending.digest,
                source: &pending.source,
                repository: &pending.repository,
                move_number: pending.move_number,
            },
            None => Self {
                digest: if entry.deleted { "" } else { &entry.digest },
                source: &entry.source,
                repository: &entry.repository,
                move_number: entry.move_number,
            },
        }
    }

    /// Says whether the state is of the mirror's present source and repository.
    pub(super) fn is_of(&self, mirror: &Mirror) -> bool {
        self.source == mirror.from.to_string() && self.repository == mirror.to.as_str()
    }
}

/// Returns the move from the state of an entry to what was observed, if the tag moved.
pub(super) fn detect_move(
    mirror: &Mirror,
    entry: &UpstreamTag,
    observation: &Observation,
    now: DateTime<Utc>,
) -> Option<PendingMove> {
    let before = TagState::of(entry);
    let (digest, source, repository) = match observation {
        Observation::Unknown => return None,
        Observation::Present(digest)
            if digest.as_str() == before.digest && before.is_of(mirror) =>
        {
            return None;
        }
        Observation::Present(digest) => (
            digest.to_string(),
            mirror.from.to_string(),
            mirror.to.to_string(),
        ),
        Observation::Deleted if before.digest.is_empty() => return None,
        // In the repository that it was mirrored to.
        Observation::Deleted => (
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

/// Returns the events of the pending moves, and the entry as it is once they are published.
pub(super) fn take_pending_moves(
    mirror: &Mirror,
    tag: &Tag,
    entry: &UpstreamTag,
) -> (Vec<TagMove>, UpstreamTag) {
    let mut entry = entry.clone();
    entry.mirror = mirror.name.to_string();
    entry.tag = tag.to_string();
    let mut moves = Vec::new();
    for pending in std::mem::take(&mut entry.pending) {
        let move_number = pending.move_number;
        let event = apply_move(mirror, tag, &mut entry, pending);
        moves.push(TagMove { event, move_number });
    }
    (moves, entry)
}

/// Applies a pending move to an entry, and returns its event: always the same one, whichever poll publishes it.
fn apply_move(mirror: &Mirror, tag: &Tag, entry: &mut UpstreamTag, pending: PendingMove) -> Event {
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
    let surplus = entry.history.len().saturating_sub(MAX_HISTORY);
    entry.history.drain(..surplus);
    let was_deleted = std::mem::replace(&mut entry.deleted, pending.digest.is_empty());
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
        previous: before.filter(|_| !was_deleted),
        move_number: pending.move_number,
        urgent: pending.urgent,
    }
    .into()
}

/// Returns when a digest was first seen, by our clock; a digest that comes back keeps its time.
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
    let surplus = entry.first_seen.len().saturating_sub(MAX_HISTORY);
    entry.first_seen.drain(..surplus);
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror(more: &str) -> Mirror {
        let text = format!("kind: Mirror\nname: a\nfrom: docker.io/library/a\nto: hub/a\n{more}");
        match sluice_domain::resources::parse_documents(&text)
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

    /// Returns the event of an undisturbed poll, which is recorded.
    fn poll(entry: &mut UpstreamTag, observation: &Observation, second: i64) -> Option<Event> {
        let mirror = mirror("on_delete: delete\n");
        let pending = detect_move(&mirror, entry, observation, at(second))?;
        entry.pending.push(pending);
        let (mut moves, published) = take_pending_moves(&mirror, &tag(), entry);
        *entry = published;
        assert_eq!(moves.len(), 1);
        moves.pop().map(|one| one.event)
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
        let (a, b) = (
            Observation::Present(digest("a")),
            Observation::Present(digest("b")),
        );
        assert!(poll(&mut entry, &Observation::Deleted, 0).is_none());
        let fact = moved(poll(&mut entry, &a, 1));
        assert_eq!((fact.move_number, fact.previous), (1, None));
        assert!(poll(&mut entry, &a, 2).is_none());
        let fact = moved(poll(&mut entry, &b, 3));
        assert_eq!((fact.move_number, fact.previous), (2, Some(digest("a"))));
        let fact = moved(poll(&mut entry, &a, 4));
        assert_eq!((fact.move_number, fact.first_seen_at), (3, at(1)));
        let Some(Event::UpstreamTagGone(fact)) = poll(&mut entry, &Observation::Deleted, 5) else {
            panic!("no deletion");
        };
        assert_eq!((fact.move_number, fact.last_digest), (4, Some(digest("a"))));
        assert!(fact.remove);
        assert!(poll(&mut entry, &Observation::Deleted, 6).is_none());
        let fact = moved(poll(&mut entry, &a, 7));
        assert_eq!((fact.move_number, fact.previous), (5, None));
        let numbers: Vec<u64> = entry.history.iter().map(|m| m.move_number).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_pending_move_keeps_its_number_and_the_next_one_follows() {
        let mirror = mirror("");
        let mut entry = UpstreamTag::default();
        let (a, b) = (
            Observation::Present(digest("a")),
            Observation::Present(digest("b")),
        );
        entry
            .pending
            .extend(detect_move(&mirror, &entry, &a, at(1)));
        // Another poll sees the same, and a third one sees the tag at another digest by now.
        assert_eq!(detect_move(&mirror, &entry, &a, at(2)), None);
        let (first, _) = take_pending_moves(&mirror, &tag(), &entry);
        entry
            .pending
            .extend(detect_move(&mirror, &entry, &b, at(3)));
        let (both, published) = take_pending_moves(&mirror, &tag(), &entry);
        assert_eq!(both.first(), first.first());
        let numbers: Vec<u64> = both.iter().map(|one| one.move_number).collect();
        assert_eq!(numbers, [1, 2]);
        assert_eq!(
            (published.digest.as_str(), published.move_number),
            (digest("b").as_str(), 2)
        );
        assert!(published.pending.is_empty());
    }

    #[test]
    fn a_mirror_with_a_new_repository_mirrors_all_its_tags_there() {
        let mut entry = UpstreamTag::default();
        let a = Observation::Present(digest("a"));
        poll(&mut entry, &a, 1).unwrap();
        let mut elsewhere = mirror("");
        elsewhere.to = "hub/b".parse().unwrap();
        let pending = detect_move(&elsewhere, &entry, &a, at(2)).unwrap();
        assert_eq!(
            (pending.move_number, pending.repository.as_str()),
            (2, "hub/b")
        );
        let pending = detect_move(&elsewhere, &entry, &Observation::Deleted, at(2)).unwrap();
        assert_eq!(
            pending.repository, "hub/a",
            "the tag is deleted in its old repository"
        );
    }

    #[test]
    fn histories_stay_bounded() {
        let mut entry = UpstreamTag::default();
        for turn in 0..200 {
            let digest = digest(if turn % 2 == 0 { "a" } else { "b" });
            poll(&mut entry, &Observation::Present(digest), 1).unwrap();
        }
        assert_eq!(
            (
                entry.history.len(),
                entry.first_seen.len(),
                entry.move_number
            ),
            (MAX_HISTORY, 2, 200)
        );
    }
}
