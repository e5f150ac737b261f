//! Checks what upstream tags point to: one listing, and one HEAD for each tag; nothing else unless a tag moved.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sluice_bus::Outcome;
use sluice_domain::Tag;
use sluice_domain::resources::Mirror;
use sluice_events::EventId;
use sluice_events::commands::MirrorTag;
use sluice_events::wire::state::{TagEntry, UpstreamTag};
use sluice_registry::Client;
use sluice_service::{crash, error_chain};
use sluice_state::{Entries, Snapshot, is_pull_budget_spent, key, source_of};

use super::known_tags::{KnownTag, read_known_tags};
use super::tag_moves::{Observation, TagMove, detect_move, take_pending_moves};
use super::tags_to_check::{CheckReason, TagsToCheck};
use crate::error::Error;
use crate::handler::Poller;

/// How often a tag is checked again whose entry another poll changed meanwhile; then it is left to the next poll.
const MAX_ROUNDS: usize = 4;
/// How many tags may move in one part of a poll, so that their moves are published before others are checked.
const MAX_MOVED: usize = 1_000;

/// The result of one part of a poll.
pub(super) struct PolledTags {
    /// How many tags the mirror selects.
    pub(super) selected: usize,
    /// The moves to publish, and what to record afterwards.
    pub(super) outcome: Outcome,
    /// The reason of a failure; what other tags showed still counts.
    pub(super) failure: Option<String>,
    /// Whether the upstream listed its tags.
    pub(super) is_listed: bool,
    /// The last tag that was checked, if the part ended before the last tag of the mirror.
    pub(super) stopped_after: Option<String>,
}

/// The result of checking one tag.
#[derive(Default)]
struct TagCheck {
    moves: Vec<TagMove>,
    /// The entry to record once the moves are published, and the revision that it replaces.
    record: Option<(UpstreamTag, u64)>,
    /// The command that mirrors the tag for a person who waits, if an earlier move is not mirrored yet.
    urgent: Option<MirrorTag>,
    failure: Option<String>,
}

/// The checks of one poll.
struct TagPoll<'a> {
    mirror: &'a Mirror,
    client: &'a Client,
    entries: &'a Entries<UpstreamTag>,
    /// The local tags, if a person must not wait for the pulls that background work waits for.
    tags: Option<&'a Entries<TagEntry>>,
    /// Whether a person waits for the images.
    is_urgent: bool,
    /// Whether the registry refused requests, which further ones would prolong.
    is_rate_limited: AtomicBool,
}

impl Poller {
    /// Checks the tags after one; a failure of a tag does not stop the others.
    pub(super) async fn poll_tags(
        &self,
        catalog: &Snapshot,
        mirror: &Mirror,
        is_urgent: bool,
        after: &str,
    ) -> Result<PolledTags, Error> {
        let began = sluice_domain::now();
        let mut polled = PolledTags {
            selected: 0,
            outcome: Outcome::done(),
            failure: None,
            is_listed: true,
            stopped_after: None,
        };
        let client = match self.client(catalog, &mirror.from.host) {
            Ok(client) => client,
            Err(error) => {
                polled.failure = Some(format!("{error:#}"));
                polled.is_listed = false;
                return Ok(polled);
            }
        };
        // The state is read before the upstream, so that no observation is older than what it is compared with.
        let known = read_known_tags(&self.state, mirror).await?;
        let mut listing = TagsToCheck::fetch(mirror, &client, &known)
            .await
            .unwrap_or_else(|reason| {
                polled.failure = Some(reason);
                polled.is_listed = false;
                TagsToCheck::of_pending_moves(&known)
            });
        polled.selected = listing.selected;
        let attachments = std::mem::take(&mut listing.attachments);
        let attachments = self.attachments_of(mirror, &known, attachments).await?;
        listing.add_attachments(attachments);
        let host = &mirror.from.host;
        let skips_queue =
            is_urgent && is_pull_budget_spent(&self.state.budgets, catalog, host).await?;
        let tag_poll = TagPoll {
            mirror,
            client: &client,
            entries: &self.state.upstream,
            tags: skips_queue.then_some(&self.state.tags),
            is_urgent,
            is_rate_limited: AtomicBool::new(false),
        };
        let checks = listing.checks_after(after, &known);
        let until = began + self.max_part;
        self.run_checks(&tag_poll, checks, &known, (after, until), &mut polled)
            .await?;
        Ok(polled)
    }

    /// Checks tags in their order, until there are no more or the time is over.
    async fn run_checks(
        &self,
        tag_poll: &TagPoll<'_>,
        checks: Vec<(Tag, CheckReason)>,
        known: &BTreeMap<Tag, KnownTag>,
        (after, until): (&str, DateTime<Utc>),
        polled: &mut PolledTags,
    ) -> Result<(), Error> {
        let mirror = tag_poll.mirror;
        let mut results = stream::iter(checks)
            .map(|(tag, reason)| async move {
                let check = tag_poll.check(&tag, reason, known.get(&tag)).await?;
                Ok::<_, Error>((tag, check))
            })
            .buffered(self.parallel_heads);
        let mut moved = 0;
        while let Some((tag, check)) = results.try_next().await? {
            if check.failure.is_some() {
                polled.failure = check.failure;
            }
            moved += usize::from(!check.moves.is_empty());
            let mut outcome = std::mem::replace(&mut polled.outcome, Outcome::done());
            for TagMove { event, move_number } in check.moves {
                tracing::info!(mirror = %mirror.name, image.tag = %tag, move_number, event = event.name(), "upstream tag changed");
                outcome = outcome.fact_at(event, move_number.to_string());
            }
            if let Some(command) = check.urgent {
                let id = format!("urgent/{}/{tag}/{}", mirror.name, command.move_number);
                outcome = outcome.command(command, EventId::random(), id);
            }
            if let Some((entry, revision)) = check.record {
                let entries = self.state.upstream.clone();
                let key = key::upstream(&mirror.name, &tag);
                // After a conflict another poll has published the same moves, or found a further one.
                outcome = outcome.then(async move {
                    entries
                        .try_write(&key, &entry, Some(revision))
                        .await
                        .map(drop)
                });
            }
            polled.outcome = outcome;
            if moved >= MAX_MOVED || sluice_domain::now() > until {
                polled.stopped_after = Some(tag.as_str().max(after).to_owned());
                break;
            }
        }
        Ok(())
    }
}

impl TagPoll<'_> {
    /// Checks one tag; if nothing changed that is one HEAD and nothing else.
    async fn check(
        &self,
        tag: &Tag,
        reason: CheckReason,
        known: Option<&KnownTag>,
    ) -> Result<TagCheck, Error> {
        let mut check = TagCheck::default();
        let mut observation = self.observe(tag, reason, &mut check).await;
        let is_unchanged = match known {
            Some(known) => known.is_unchanged(&observation),
            None => !matches!(observation, Observation::Present(_)),
        };
        if is_unchanged {
            if let (Some(tags), Observation::Present(_)) = (self.tags, &observation) {
                check.urgent = self.urgent_command(tags, tag, known).await?;
            }
            return Ok(check);
        }
        let key = key::upstream(&self.mirror.name, tag);
        let mut revision = known.map(|known| known.revision);
        for _ in 0..MAX_ROUNDS {
            let (mut entry, current) = self.entries.get_or_default(&key).await?;
            if current != revision {
                // Another poll wrote the entry, and this observation may be older than the one of that poll.
                revision = current;
                observation = self.observe(tag, reason, &mut check).await;
            }
            let mut written = revision;
            if let Some(mut pending) =
                detect_move(self.mirror, &entry, &observation, sluice_domain::now())
            {
                pending.urgent = self.is_urgent;
                entry.pending.push(pending);
                written = match self.entries.write(&key, &entry, revision).await {
                    Ok(written) => Some(written),
                    Err(error) if error.is_conflict() => continue,
                    Err(error) => return Err(error.into()),
                };
                crash::point("poller.move_numbered");
            }
            let (moves, entry) = take_pending_moves(self.mirror, tag, &entry);
            if let (Some(written), false) = (written, moves.is_empty()) {
                check.moves = moves;
                check.record = Some((entry, written));
            }
            return Ok(check);
        }
        tracing::debug!(mirror = %self.mirror.name, image.tag = %tag, "other polls keep changing the entry; leaving the tag to the next poll");
        Ok(check)
    }

    /// Returns the command that mirrors a known tag whose digest is not mirrored yet; the mirror worker decides whether
    /// to.
    async fn urgent_command(
        &self,
        tags: &Entries<TagEntry>,
        tag: &Tag,
        known: Option<&KnownTag>,
    ) -> Result<Option<MirrorTag>, Error> {
        let Some((known, digest)) = known.and_then(|known| Some((known, known.digest.as_ref()?)))
        else {
            return Ok(None);
        };
        let entry = tags.get(&key::tag(&self.mirror.to, tag)).await?;
        let is_mirrored = entry.is_some_and(|entry| source_of(&entry.value) == digest.as_str());
        Ok((!is_mirrored).then(|| MirrorTag {
            mirror: self.mirror.name.clone(),
            tag: tag.clone(),
            move_number: known.move_number,
            damaged: false,
            referrers: false,
            urgent: true,
        }))
    }

    async fn observe(&self, tag: &Tag, reason: CheckReason, check: &mut TagCheck) -> Observation {
        if reason == CheckReason::PendingMove || self.is_rate_limited.load(Ordering::Relaxed) {
            return Observation::Unknown;
        }
        let repository = &self.mirror.from.repository;
        match self.client.resolve(repository, &tag.into()).await {
            Ok(Some(head)) => Observation::Present(head.digest),
            // A listing may be truncated or outdated; only the listing and the HEAD together show a deletion.
            Ok(None) if reason == CheckReason::Unlisted => Observation::Deleted,
            Ok(None) => Observation::Unknown,
            Err(error) => {
                if error.is_rate_limited() {
                    self.is_rate_limited.store(true, Ordering::Relaxed);
                }
                check.failure = Some(error_chain(&error));
                Observation::Unknown
            }
        }
    }
}
