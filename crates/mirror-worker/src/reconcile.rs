//! Which tags are not what upstream says, from state alone.

use sluice_bus::topology::MIRROR_WORKER;
use sluice_bus::{Cause, Outcome};
use sluice_domain::resources::{Mirror, OnDelete, Platforms};
use sluice_events::commands::{MirrorTag, Reconcile};
use sluice_events::facts::{UpstreamTagGone, UpstreamTagMoved};
use sluice_events::wire::state::{TagEntry, UpstreamTag};
use sluice_events::{Command, Event, Message, time_from_wire};
use sluice_state::reconcile::{Next, PAGE, ReconcilePage, reason};
use sluice_state::{Snapshot, key, source_of};

use crate::audit::AUDIT_PAGE;
use crate::filtered_index::wanted as wanted_of;
use crate::mirror::{Error, MirrorWorker};

impl MirrorWorker {
    /// Looks at a page of what upstream has.
    pub(crate) async fn missing(&self, command: &Reconcile) -> Result<ReconcilePage, Error> {
        let catalog = self.catalog.current();
        let is_audit = command.reason == reason::AUDIT;
        let size = if is_audit { AUDIT_PAGE } else { PAGE };
        let page = self.state.upstream.page("*.*", command.after, size).await?;
        let given_up = self.dead_lettered().await?;
        let mut found = ReconcilePage {
            looked_at: page.entries.len(),
            next: Next::after(page.next, Next::End),
            audited_at: self.audited_at().await?,
            ..ReconcilePage::default()
        };
        let mut same = Vec::new();
        for entry in page.entries {
            let upstream = entry.value;
            let Some(wanted) = command_for(&catalog, &upstream) else {
                continue;
            };
            // What failed for good is tried again when a person asks for it.
            if given_up.contains(&wanted) {
                continue;
            }
            let local = self.local(&catalog, &wanted).await?;
            let Some(mirror) = catalog.mirrors.get(&wanted.mirror) else {
                continue;
            };
            if self.differs(mirror, &upstream, local.as_ref()) {
                // What was attached to an image that is gone comes back with that.
                let is_stray = match moved(mirror, &wanted, &upstream) {
                    Some(fact) => self.is_detached(&fact).await?,
                    None => false,
                };
                if !is_stray {
                    found.commands.push(wanted.into());
                }
            } else if let Some(held) = local.filter(|local| is_held(&upstream, local))
                && let Some(fact) = moved(mirror, &wanted, &upstream)
            {
                same.push((wanted, fact, held));
            }
        }
        if is_audit {
            let damaged = self.damaged(&same).await?;
            same.retain(|(wanted, ..)| {
                let is_same = |damaged: &MirrorTag| {
                    damaged.tag == wanted.tag && damaged.mirror == wanted.mirror
                };
                !damaged.iter().any(is_same)
            });
            let unlisted = self.unlisted(&catalog, same).await;
            let asked = damaged.into_iter().chain(unlisted);
            found.commands.extend(asked.map(Into::into));
        }
        Ok(found)
    }

    /// Brings one tag to what upstream is known to have; what is as it has to be by now is left alone.
    pub(crate) async fn asked(&self, command: &MirrorTag, cause: &Cause) -> Result<Outcome, Error> {
        let catalog = self.catalog.current();
        let key = key::upstream(&command.mirror, &command.tag);
        let (Some(mirror), Some(entry)) = (
            catalog.mirrors.get(&command.mirror),
            self.state.upstream.get(&key).await?,
        ) else {
            return Ok(Outcome::done());
        };
        let upstream = entry.value;
        let local = self.local(&catalog, command).await?;
        let differs = self.differs(mirror, &upstream, local.as_ref());
        if let Some(held) = local.filter(|local| is_held(&upstream, local))
            && (command.damaged || command.referrers)
            && !differs
        {
            return match moved(mirror, command, &upstream) {
                Some(fact) if command.referrers => {
                    self.referrers_or_told(&catalog, &fact, &held, cause).await
                }
                Some(fact) => self.repair_or_tell(&fact, &held, cause).await,
                None => Ok(Outcome::done()),
            };
        }
        // Whoever settled the tag tells of it; on a second attempt that may have been this very message.
        if cause.attempt == 1 && !differs {
            return Ok(Outcome::done());
        }
        if upstream.gone {
            return self
                .gone(&UpstreamTagGone {
                    mirror: mirror.name.clone(),
                    source: mirror.from.clone(),
                    repository: mirror.to.clone(),
                    tag: command.tag.clone(),
                    last_digest: upstream.digest.parse().ok(),
                    move_number: upstream.move_number,
                    remove: mirror.on_delete == OnDelete::Delete,
                })
                .await;
        }
        let Some(fact) = moved(mirror, command, &upstream) else {
            return Ok(Outcome::done());
        };
        self.moved_or_told(&fact, cause).await
    }

    /// Says whether a tag is not what upstream has, and is to become that.
    fn differs(&self, mirror: &Mirror, upstream: &UpstreamTag, local: Option<&TagEntry>) -> bool {
        let is_refused = local.is_some_and(|local| local.refused == upstream.digest);
        let is_immutable = || self.catalog.current().is_immutable(&mirror.to);
        differs(mirror, upstream, local) && !(is_refused && !upstream.gone && is_immutable())
    }

    async fn local(
        &self,
        catalog: &Snapshot,
        command: &MirrorTag,
    ) -> Result<Option<TagEntry>, Error> {
        let Some(mirror) = catalog.mirrors.get(&command.mirror) else {
            return Ok(None);
        };
        let key = key::tag(&mirror.to, &command.tag);
        Ok(self.state.tags.get(&key).await?.map(|entry| entry.value))
    }

    /// Returns the moves that are dead letters of this stage.
    async fn dead_lettered(&self) -> Result<Vec<MirrorTag>, Error> {
        let letters = self.bus.dead_lettered(&MIRROR_WORKER).await;
        let letters = letters.map_err(sluice_state::Error::from)?;
        Ok(letters.into_iter().filter_map(move_of).collect())
    }
}

fn move_of(message: Message) -> Option<MirrorTag> {
    match message {
        Message::Command(Command::MirrorTag(command)) => Some(MirrorTag {
            damaged: false,
            referrers: false,
            urgent: false,
            ..command
        }),
        Message::Event(Event::UpstreamTagMoved(fact)) => Some(MirrorTag {
            mirror: fact.mirror,
            tag: fact.tag,
            move_number: fact.move_number,
            damaged: false,
            referrers: false,
            urgent: false,
        }),
        Message::Event(Event::UpstreamTagGone(fact)) => Some(MirrorTag {
            mirror: fact.mirror,
            tag: fact.tag,
            move_number: fact.move_number,
            damaged: false,
            referrers: false,
            urgent: false,
        }),
        _ => None,
    }
}

/// Returns what would bring a tag to what upstream has, if its mirror is on and still as it was polled.
fn command_for(catalog: &Snapshot, upstream: &UpstreamTag) -> Option<MirrorTag> {
    let mirror = catalog.mirrors.get(&upstream.mirror.parse().ok()?)?;
    let is_as_polled = mirror.enabled
        // The first move may not be told yet.
        && upstream.move_number > 0
        && upstream.repository == mirror.to.as_str()
        && upstream.source == mirror.from.to_string();
    is_as_polled.then_some(())?;
    Some(MirrorTag {
        mirror: mirror.name.clone(),
        tag: upstream.tag.parse().ok()?,
        move_number: upstream.move_number,
        damaged: false,
        referrers: false,
        urgent: false,
    })
}

/// Says whether a tag is what a move of its mirror brought, with nobody at work on it.
fn is_held(upstream: &UpstreamTag, local: &TagEntry) -> bool {
    let is_ours = local.mirror == upstream.mirror && local.claim.is_none();
    is_ours && !local.digest.is_empty() && !upstream.gone
}

/// Says whether a tag is not what upstream has; what retention removed stays removed.
fn differs(mirror: &Mirror, upstream: &UpstreamTag, local: Option<&TagEntry>) -> bool {
    let held = local.map_or("", source_of);
    let ours = local.filter(|entry| entry.mirror == upstream.mirror);
    if upstream.gone {
        return mirror.on_delete == OnDelete::Delete && ours.is_some() && !held.is_empty();
    }
    let pruned = ours.is_some_and(|e| e.pruned && e.move_number >= upstream.move_number);
    // The event of a move comes before its entry.
    let newer = ours.is_some_and(|entry| entry.move_number > upstream.move_number);
    // The list of platforms may have changed since.
    let is_part = local.map_or("", |entry| entry.platforms.as_str());
    let wanted = upstream.tag.parse();
    let wanted = wanted.map_or(&Platforms::All, |tag| wanted_of(mirror, &tag));
    let is_wanted = held == upstream.digest && is_part == wanted.stored();
    !is_wanted && !pruned && !newer
}

fn moved(mirror: &Mirror, command: &MirrorTag, upstream: &UpstreamTag) -> Option<UpstreamTagMoved> {
    let first_seen = upstream
        .first_seen
        .iter()
        .find(|seen| seen.digest == upstream.digest);
    Some(UpstreamTagMoved {
        mirror: mirror.name.clone(),
        source: mirror.from.clone(),
        repository: mirror.to.clone(),
        tag: command.tag.clone(),
        digest: upstream.digest.parse().ok()?,
        previous: None,
        move_number: upstream.move_number,
        first_seen_at: time_from_wire(first_seen.and_then(|seen| seen.at.as_ref()))
            .unwrap_or_default(),
        urgent: command.urgent,
    })
}

#[cfg(test)]
mod tests {
    use sluice_domain::resources::{Resource, documents};

    use super::*;

    fn mirror(more: &str) -> Mirror {
        let yaml = format!(
            "kind: Mirror\nname: alpine\nfrom: docker.io/library/alpine\nto: hub/alpine\n{more}"
        );
        match documents(&yaml).unwrap().remove(0).resource {
            Resource::Mirror(mirror) => mirror,
            other => panic!("{other:?}"),
        }
    }

    fn upstream(digest: &str, move_number: u64, gone: bool) -> UpstreamTag {
        UpstreamTag {
            mirror: "alpine".to_owned(),
            source: "docker.io/library/alpine".to_owned(),
            repository: "hub/alpine".to_owned(),
            tag: "3.20".to_owned(),
            digest: digest.to_owned(),
            move_number,
            gone,
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
    fn a_tag_is_asked_for_that_is_not_what_upstream_has_and_was_not_pruned() {
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
    fn a_part_is_compared_by_what_it_is_a_part_of_and_made_again_for_another_list() {
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
    fn a_tag_that_is_gone_is_removed_only_where_the_mirror_says_so_and_brought_it() {
        let deletes = mirror("on_delete: delete\n");
        let gone = upstream("a", 2, true);
        for (local, expected) in [
            (Some(local("a", 1, "alpine", false)), true),
            (Some(local("x", 0, "", false)), false),
            (Some(local("", 2, "alpine", false)), false),
            (None, false),
        ] {
            assert_eq!(
                differs(&deletes, &gone, local.as_ref()),
                expected,
                "{local:?}"
            );
        }
    }

    #[test]
    fn a_mirror_that_is_off_or_leads_elsewhere_now_is_left_alone() {
        let entry = upstream("a", 1, false);
        let with = |more: &str| {
            let mut catalog = Snapshot::default();
            let mirror = mirror(more);
            catalog.mirrors.insert(mirror.name.clone(), mirror);
            catalog
        };
        assert!(command_for(&with(""), &entry).is_some());
        assert!(command_for(&with("enabled: false\n"), &entry).is_none());
        assert!(command_for(&Snapshot::default(), &entry).is_none());
        let elsewhere = UpstreamTag {
            repository: "hub/other".to_owned(),
            ..entry
        };
        assert!(command_for(&with(""), &elsewhere).is_none());
    }
}
