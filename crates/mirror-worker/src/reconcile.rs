//! Finds tags that differ from what the state has of upstream, and mirrors them on command.

use std::collections::HashSet;

use sluice_bus::topology::MIRROR_WORKER;
use sluice_bus::{Cause, Outcome};
use sluice_domain::resources::{Mirror, OnDelete, PlatformFilter};
use sluice_domain::{ResourceName, Tag};
use sluice_events::commands::{MirrorTag, Reconcile};
use sluice_events::wire::state::{TagEntry, UpstreamTag};
use sluice_events::{Command, Event, Message};
use sluice_state::reconcile::{Next, PAGE, ReconcilePage, reason};
use sluice_state::{Pulls, Snapshot, key, source_of};

use crate::error::Error;
use crate::handler::MirrorWorker;
use crate::integrity_check::AUDIT_PAGE;
use crate::mirror::filtered_index::platforms_of;
use crate::mirror::task::{MirrorReason, MirrorTask, pulls_for};

impl MirrorWorker {
    /// Checks a page of the upstream tags.
    pub(crate) async fn find_missing(&self, command: &Reconcile) -> Result<ReconcilePage, Error> {
        let catalog = self.catalog.current();
        let is_audit = command.reason == reason::AUDIT;
        let size = if is_audit { AUDIT_PAGE } else { PAGE };
        let entries = self.state.upstream.page("*.*", command.after, size).await?;
        let dead_lettered = self.dead_lettered_moves().await?;
        let mut page = ReconcilePage {
            checked: entries.entries.len(),
            next: Next::after(entries.next, Next::End),
            audited_at: self.audited_at().await?,
            ..ReconcilePage::default()
        };
        let mut in_sync = Vec::new();
        for entry in entries.entries {
            let upstream = entry.value;
            let Some((mirror, command)) = current_move(&catalog, &upstream) else {
                continue;
            };
            // A dead letter is retried when a person asks for it.
            if dead_lettered.contains(&move_id(&command)) {
                continue;
            }
            let local = self.local_entry(mirror, &command.tag).await?;
            let task = MirrorTask::of_entry(mirror, &command.tag, &upstream, Pulls::Background);
            if self.differs(mirror, &upstream, local.as_ref()) {
                // An attachment of a removed image comes back with its image.
                let is_detached = match &task {
                    Some(task) => self.is_detached(task).await?,
                    None => false,
                };
                if !is_detached {
                    page.commands.push(command.into());
                }
            } else if let Some(local) = local.filter(|local| is_mirrored(&upstream, local))
                && let Some(task) = task
            {
                in_sync.push((task, local));
            }
        }
        if is_audit {
            let damaged = self.find_damaged(&in_sync).await?;
            in_sync.retain(|(task, _)| {
                let is_same =
                    |damaged: &MirrorTag| damaged.tag == task.tag && damaged.mirror == task.mirror;
                !damaged.iter().any(is_same)
            });
            let without_referrers = self.find_missing_referrers(&catalog, in_sync).await;
            let commands = damaged.into_iter().chain(without_referrers);
            page.commands.extend(commands.map(Into::into));
        }
        Ok(page)
    }

    /// Mirrors a tag, repairs it, or copies its referrers, unless it is as it should be by now.
    pub(crate) async fn mirror_on_command(
        &self,
        command: &MirrorTag,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        let catalog = self.catalog.current();
        let key = key::upstream(&command.mirror, &command.tag);
        let (Some(mirror), Some(entry)) = (
            catalog.mirrors.get(&command.mirror),
            self.state.upstream.get(&key).await?,
        ) else {
            return Ok(Outcome::done());
        };
        let upstream = entry.value;
        let local = self.local_entry(mirror, &command.tag).await?;
        let differs = self.differs(mirror, &upstream, local.as_ref());
        let task = MirrorTask::of_entry(mirror, &command.tag, &upstream, pulls_for(command.urgent));
        let reason = MirrorReason::of(command);
        if let Some(local) = local.filter(|local| is_mirrored(&upstream, local))
            && reason != MirrorReason::Outdated
            && !differs
        {
            return match task {
                Some(task) if reason == MirrorReason::Referrers => {
                    self.mirror_referrers(&catalog, &task, &local, cause).await
                }
                Some(task) => self.repair(&task, &local, cause).await,
                None => Ok(Outcome::done()),
            };
        }
        // The worker that mirrored the tag publishes that; for a second attempt it may have been this very message.
        if cause.attempt == 1 && !differs {
            return Ok(Outcome::done());
        }
        if upstream.deleted {
            if mirror.on_delete != OnDelete::Delete {
                return Ok(Outcome::done());
            }
            return self
                .delete_tag_deleted_upstream(
                    &mirror.name,
                    &mirror.to,
                    &command.tag,
                    upstream.move_number,
                )
                .await;
        }
        match task {
            Some(task) => self.mirror(&task, cause).await,
            None => Ok(Outcome::done()),
        }
    }

    /// Says whether a tag differs from upstream and may be changed.
    fn differs(&self, mirror: &Mirror, upstream: &UpstreamTag, local: Option<&TagEntry>) -> bool {
        let is_refused = local.is_some_and(|local| local.refused == upstream.digest);
        let is_immutable = || self.catalog.current().is_immutable(&mirror.to);
        differs(mirror, upstream, local) && !(is_refused && !upstream.deleted && is_immutable())
    }

    async fn local_entry(&self, mirror: &Mirror, tag: &Tag) -> Result<Option<TagEntry>, Error> {
        let entry = self.state.tags.get(&key::tag(&mirror.to, tag)).await?;
        Ok(entry.map(|entry| entry.value))
    }

    /// Returns the moves that are dead letters of this stage.
    async fn dead_lettered_moves(&self) -> Result<HashSet<MoveId>, Error> {
        let messages = self.bus.dead_lettered(&MIRROR_WORKER).await;
        let messages = messages.map_err(sluice_state::Error::from)?;
        let moves = messages.into_iter().filter_map(|message| match message {
            Message::Command(Command::MirrorTag(command)) => Some(move_id(&command)),
            Message::Event(Event::UpstreamTagMoved(event)) => {
                Some((event.mirror, event.tag, event.move_number))
            }
            Message::Event(Event::UpstreamTagGone(event)) => {
                Some((event.mirror, event.tag, event.move_number))
            }
            _ => None,
        });
        Ok(moves.collect())
    }
}

/// A move: the mirror, the tag, and the number of the move.
type MoveId = (ResourceName, Tag, u64);

fn move_id(command: &MirrorTag) -> MoveId {
    (
        command.mirror.clone(),
        command.tag.clone(),
        command.move_number,
    )
}

/// Returns the enabled mirror of an upstream tag and the command for its last move, if the mirror still has the source
/// and repository of the entry.
fn current_move<'a>(
    catalog: &'a Snapshot,
    upstream: &UpstreamTag,
) -> Option<(&'a Mirror, MirrorTag)> {
    let mirror = catalog.mirrors.get(&upstream.mirror.parse().ok()?)?;
    let is_current = mirror.enabled
        // The first move may not be published yet.
        && upstream.move_number > 0
        && upstream.repository == mirror.to.as_str()
        && upstream.source == mirror.from.to_string();
    is_current.then_some(())?;
    let command = MirrorTag {
        mirror: mirror.name.clone(),
        tag: upstream.tag.parse().ok()?,
        move_number: upstream.move_number,
        damaged: false,
        referrers: false,
        urgent: false,
    };
    Some((mirror, command))
}

/// Says whether a tag is what its mirror wrote, with no change in progress.
fn is_mirrored(upstream: &UpstreamTag, local: &TagEntry) -> bool {
    let is_of_mirror = local.mirror == upstream.mirror && local.claim.is_none();
    is_of_mirror && !local.digest.is_empty() && !upstream.deleted
}

/// Says whether a tag differs from upstream; a tag that retention removed stays removed.
fn differs(mirror: &Mirror, upstream: &UpstreamTag, local: Option<&TagEntry>) -> bool {
    let local_source = local.map_or("", source_of);
    let of_mirror = local.filter(|entry| entry.mirror == upstream.mirror);
    if upstream.deleted {
        let deletes = mirror.on_delete == OnDelete::Delete;
        return deletes && of_mirror.is_some() && !local_source.is_empty();
    }
    let is_pruned = of_mirror.is_some_and(|e| e.pruned && e.move_number >= upstream.move_number);
    // The event of a move is published before its entry is written.
    let is_newer = of_mirror.is_some_and(|entry| entry.move_number > upstream.move_number);
    // The platform filter may have changed since.
    let local_platforms = local.map_or("", |entry| entry.platforms.as_str());
    let tag = upstream.tag.parse();
    let platforms = tag.map_or(&PlatformFilter::All, |tag| platforms_of(mirror, &tag));
    let is_same = local_source == upstream.digest && local_platforms == platforms.stored();
    !is_same && !is_pruned && !is_newer
}

#[cfg(test)]
mod tests {
    use sluice_domain::resources::{Resource, parse_documents};

    use super::*;

    fn mirror(more: &str) -> Mirror {
        let yaml = format!(
            "kind: Mirror\nname: alpine\nfrom: docker.io/library/alpine\nto: hub/alpine\n{more}"
        );
        match parse_documents(&yaml).unwrap().remove(0).resource {
            Resource::Mirror(mirror) => mirror,
            other => panic!("{other:?}"),
        }
    }

    fn upstream(digest: &str, move_number: u64, deleted: bool) -> UpstreamTag {
        UpstreamTag {
            mirror: "alpine".to_owned(),
            source: "docker.io/library/alpine".to_owned(),
            repository: "hub/alpine".to_owned(),
            tag: "3.20".to_owned(),
            digest: digest.to_owned(),
            move_number,
            deleted,
            ..Default::default()
        }
    }

    fn local(digest: &str, move_number: u64, mirror: &str, pruned: bool) -> TagEntry {
        TagEntry {
            digest: digest.to_owned(),
            mirror: mirror.to_owned(),
            move_number,
            pruned,
            ..Default::default()
        }
    }

    #[test]
    fn a_tag_differs_that_is_not_what_upstream_has_and_was_not_pruned() {
        let keeps = mirror("");
        for (upstream, local, expected) in [
            (upstream("a", 1, false), None, true),
            (
                upstream("a", 1, false),
                Some(local("a", 1, "alpine", false)),
                false,
            ),
            (
                upstream("b", 2, false),
                Some(local("a", 1, "alpine", false)),
                true,
            ),
            // A person pushed over it.
            (
                upstream("a", 1, false),
                Some(local("x", 0, "", false)),
                true,
            ),
            // Retention removed this move, or the one before it.
            (
                upstream("a", 1, false),
                Some(local("", 1, "alpine", true)),
                false,
            ),
            (
                upstream("b", 2, false),
                Some(local("", 1, "alpine", true)),
                true,
            ),
            // The entry of the newest move is not written yet.
            (
                upstream("a", 1, false),
                Some(local("b", 2, "alpine", false)),
                false,
            ),
            (
                upstream("a", 2, true),
                Some(local("a", 1, "alpine", false)),
                false,
            ),
        ] {
            assert_eq!(
                differs(&keeps, &upstream, local.as_ref()),
                expected,
                "{upstream:?} {local:?}"
            );
        }
    }

    #[test]
    fn a_filtered_index_is_compared_by_its_upstream_digest_and_made_again_for_another_filter() {
        let some = mirror("platforms: [linux/amd64]\n");
        let part = |source: &str, platforms: &str| TagEntry {
            source_digest: source.to_owned(),
            platforms: platforms.to_owned(),
            ..local("p", 1, "alpine", false)
        };
        let there = upstream("a", 1, false);
        for (local, expected) in [
            (part("a", "linux/amd64"), false),
            (part("b", "linux/amd64"), true),
            (part("a", "linux/arm64"), true),
            (part("a", ""), true),
        ] {
            assert_eq!(differs(&some, &there, Some(&local)), expected, "{local:?}");
        }
        let whole = mirror("");
        assert!(differs(&whole, &there, Some(&part("a", "linux/amd64"))));
    }

    #[test]
    fn a_tag_deleted_upstream_is_removed_only_if_its_mirror_wrote_it_and_says_so() {
        let deletes = mirror("on_delete: delete\n");
        let deleted = upstream("a", 2, true);
        for (local, expected) in [
            (Some(local("a", 1, "alpine", false)), true),
            (Some(local("x", 0, "", false)), false),
            (Some(local("", 2, "alpine", false)), false),
            (None, false),
        ] {
            assert_eq!(
                differs(&deletes, &deleted, local.as_ref()),
                expected,
                "{local:?}"
            );
        }
    }

    #[test]
    fn a_mirror_that_is_disabled_or_has_another_repository_now_is_skipped() {
        let entry = upstream("a", 1, false);
        let with = |more: &str| {
            let mut catalog = Snapshot::default();
            let mirror = mirror(more);
            catalog.mirrors.insert(mirror.name.clone(), mirror);
            catalog
        };
        assert!(current_move(&with(""), &entry).is_some());
        assert!(current_move(&with("enabled: false\n"), &entry).is_none());
        assert!(current_move(&Snapshot::default(), &entry).is_none());
        let elsewhere = UpstreamTag {
            repository: "hub/other".to_owned(),
            ..entry
        };
        assert!(current_move(&with(""), &elsewhere).is_none());
    }
}
