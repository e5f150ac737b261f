//! Asks an upstream what its tags point to: one listing, and one HEAD for each tag; nothing else unless a tag moved.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sluice_bus::Outcome;
use sluice_domain::resources::Mirror;
use sluice_domain::{Digest, Tag};
use sluice_events::EventId;
use sluice_events::commands::MirrorTag;
use sluice_events::subject::{text, token};
use sluice_events::wire::state::{TagEntry, UpstreamTag};
use sluice_registry::Client;
use sluice_service::crash;
use sluice_state::{Entries, Entry, Snapshot, key, source_of, waits_for_pulls};

use crate::poll::{Error, Poller};
use crate::tag_moves::{self, Seen, TagMove, TagState};

/// How many entries are read at a time.
const PAGE: usize = 500;
/// How often a tag is looked at again whose entry another poll changed meanwhile; then it is left to the next poll.
const ROUNDS: usize = 4;
/// How many tags may have changed in one part of a poll, so that they are told before others are asked for.
const MOST_CHANGED: usize = 1_000;

/// What the upstream said.
pub(crate) struct Answers {
    /// How many tags were selected.
    pub(crate) selected: usize,
    /// The moves that are to be told, and what to record after that.
    pub(crate) outcome: Outcome,
    /// What went wrong, if something did; the rest still counts.
    pub(crate) failure: Option<String>,
    /// Whether the upstream said which tags it has.
    pub(crate) is_listed: bool,
    /// The tag up to which all were asked for, where time was over before the last.
    pub(crate) stopped_after: Option<String>,
}

/// What has to be known of a tag to see that nothing changed; whole entries are long, and mirrors may have many tags.
#[derive(Debug)]
pub(crate) struct KnownTag {
    revision: u64,
    move_number: u64,
    /// Nothing where it is gone.
    pub(crate) digest: Option<Digest>,
    /// Whether it is known of the mirror as it is now, and not as it was before it led elsewhere.
    is_here: bool,
    /// Whether every move was told.
    is_told: bool,
}

/// Why a tag is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CheckReason {
    /// It is selected.
    Listed,
    /// It was there before, and the listing does not have it.
    Unlisted,
    /// A move of it was not told.
    Untold,
}

/// The result of checking one tag.
#[derive(Default)]
struct TagCheck {
    told: Vec<TagMove>,
    /// What to record after that, and at which revision.
    record: Option<(UpstreamTag, u64)>,
    /// What was told before and is not mirrored yet, for which a person waits.
    awaited: Option<MirrorTag>,
    failure: Option<String>,
}

/// One poll of a mirror's tags.
struct TagPoll<'a> {
    mirror: &'a Mirror,
    client: &'a Client,
    entries: &'a Entries<UpstreamTag>,
    /// What is here, where a person is not to wait for the pulls that background work waits for.
    tags: Option<&'a Entries<TagEntry>>,
    /// A person waits for it.
    is_urgent: bool,
    /// The registry has no time or no quota for the other tags either, and asking would prolong that.
    used_up: AtomicBool,
}

impl Poller {
    /// Asks the upstream for the tags after this one; whatever fails is told and the rest still counts.
    pub(crate) async fn ask(
        &self,
        catalog: &Snapshot,
        mirror: &Mirror,
        is_urgent: bool,
        after: &str,
    ) -> Result<Answers, Error> {
        let began = sluice_domain::now();
        let mut answers = Answers {
            selected: 0,
            outcome: Outcome::done(),
            failure: None,
            is_listed: true,
            stopped_after: None,
        };
        let client = match self.client(catalog, &mirror.from.host) {
            Ok(client) => client,
            Err(error) => {
                answers.failure = Some(format!("{error:#}"));
                answers.is_listed = false;
                return Ok(answers);
            }
        };
        // First what is known, then what is there: what is seen is never older than what it is compared with.
        let known = self.known(mirror).await?;
        let Listing {
            mut looks,
            attachments,
            selected,
        } = looks(mirror, &client, &known)
            .await
            .unwrap_or_else(|reason| {
                answers.failure = Some(reason);
                answers.is_listed = false;
                Listing::failed(&known)
            });
        answers.selected = selected;
        let attached = self.attached(mirror, &known, attachments).await?;
        looks.retain(|(tag, _)| !attached.contains(tag));
        looks.extend(attached.into_iter().map(|tag| (tag, CheckReason::Listed)));
        let host = &mirror.from.host;
        let is_hurried = is_urgent && waits_for_pulls(&self.state.budgets, catalog, host).await?;
        let tag_poll = TagPoll {
            mirror,
            client: &client,
            entries: &self.state.upstream,
            tags: is_hurried.then_some(&self.state.tags),
            is_urgent,
            used_up: AtomicBool::new(false),
        };
        let looks = looks_after(looks, after, &known);
        let until = began + self.part;
        self.look_at(&tag_poll, looks, &known, (after, until), &mut answers)
            .await?;
        Ok(answers)
    }

    /// Looks at tags in their order, until there are no more or time is over.
    async fn look_at(
        &self,
        tag_poll: &TagPoll<'_>,
        looks: Vec<(Tag, CheckReason)>,
        known: &BTreeMap<Tag, KnownTag>,
        (after, until): (&str, DateTime<Utc>),
        answers: &mut Answers,
    ) -> Result<(), Error> {
        let mirror = tag_poll.mirror;
        let mut found = stream::iter(looks)
            .map(|(tag, look)| async move {
                let found = tag_poll.look(&tag, look, known.get(&tag)).await?;
                Ok::<_, Error>((tag, found))
            })
            .buffered(self.parallel_heads);
        let mut changed = 0;
        while let Some((tag, found)) = found.try_next().await? {
            if found.failure.is_some() {
                answers.failure = found.failure;
            }
            changed += usize::from(!found.told.is_empty());
            let mut outcome = std::mem::replace(&mut answers.outcome, Outcome::done());
            for TagMove { fact, move_number } in found.told {
                tracing::info!(mirror = %mirror.name, image.tag = %tag, move_number, fact = fact.name(), "a tag changed upstream");
                outcome = outcome.fact_at(fact, move_number.to_string());
            }
            if let Some(command) = found.awaited {
                let id = format!("urgent/{}/{tag}/{}", mirror.name, command.move_number);
                outcome = outcome.command(command, EventId::random(), id);
            }
            if let Some((entry, revision)) = found.record {
                outcome = outcome.then(self.record(mirror, &tag, entry, revision));
            }
            answers.outcome = outcome;
            if changed >= MOST_CHANGED || sluice_domain::now() > until {
                answers.stopped_after = Some(tag.as_str().max(after).to_owned());
                break;
            }
        }
        Ok(())
    }

    /// Reads what is known of the mirror's tags.
    async fn known(&self, mirror: &Mirror) -> Result<BTreeMap<Tag, KnownTag>, Error> {
        let filter = format!("{}.*", token(mirror.name.as_str()));
        let (mut known, mut after) = (BTreeMap::new(), 0);
        loop {
            let page = self.state.upstream.page(&filter, after, PAGE).await?;
            for entry in page.entries {
                let tag = entry.key.rsplit('.').next().and_then(text);
                if let Some(tag) = tag.and_then(|tag| tag.parse().ok()) {
                    known.insert(tag, KnownTag::of(mirror, &entry));
                }
            }
            match page.next {
                Some(next) => after = next,
                None => return Ok(known),
            }
        }
    }

    /// Records what was told, unless somebody else did, or saw a further move.
    fn record(
        &self,
        mirror: &Mirror,
        tag: &Tag,
        entry: UpstreamTag,
        revision: u64,
    ) -> impl Future<Output = Result<(), sluice_state::Error>> + Send + use<> {
        let (entries, key) = (
            self.state.upstream.clone(),
            key::upstream(&mirror.name, tag),
        );
        async move {
            match entries.write(&key, &entry, Some(revision)).await {
                Ok(_) => Ok(()),
                Err(error) if error.is_conflict() => Ok(()),
                Err(error) => Err(error),
            }
        }
    }
}

impl KnownTag {
    fn of(mirror: &Mirror, entry: &Entry<UpstreamTag>) -> Self {
        let standing = TagState::of(&entry.value);
        Self {
            revision: entry.revision,
            move_number: standing.move_number,
            digest: standing.digest.parse().ok(),
            is_here: standing.is_of(mirror),
            is_told: entry.value.pending.is_empty(),
        }
    }

    fn is(&self, seen: &Seen) -> bool {
        let is_same = match seen {
            Seen::At(digest) => self.is_here && self.digest.as_ref() == Some(digest),
            Seen::Gone => self.digest.is_none(),
            Seen::Nothing => true,
        };
        is_same && self.is_told
    }
}

/// What a listing leads to.
struct Listing {
    /// The tags that are to be looked at.
    looks: Vec<(Tag, CheckReason)>,
    /// The tags that are attached to images, whether or not the mirror has those.
    attachments: Vec<Tag>,
    /// How many tags were selected.
    selected: usize,
}

impl Listing {
    /// What is left to do without a list: the moves that somebody who died has not told.
    fn failed(known: &BTreeMap<Tag, KnownTag>) -> Self {
        let untold = known.iter().filter(|(_, known)| !known.is_told);
        Self {
            looks: untold
                .map(|(tag, _)| (tag.clone(), CheckReason::Untold))
                .collect(),
            attachments: Vec::new(),
            selected: 0,
        }
    }
}

/// Puts the tags in order and leaves out those up to one, unless a move of theirs was found and not told.
fn looks_after(
    mut looks: Vec<(Tag, CheckReason)>,
    after: &str,
    known: &BTreeMap<Tag, KnownTag>,
) -> Vec<(Tag, CheckReason)> {
    looks.retain_mut(|(tag, look)| {
        if tag.as_str() > after {
            return true;
        }
        *look = CheckReason::Untold;
        known.get(tag).is_some_and(|known| !known.is_told)
    });
    looks.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
    looks
}

/// Lists the upstream's tags.
async fn looks(
    mirror: &Mirror,
    client: &Client,
    known: &BTreeMap<Tag, KnownTag>,
) -> Result<Listing, String> {
    let listed = client.tags(&mirror.from.repository).await;
    let listed = listed.map_err(|error| reason(&error))?;
    let tags = sluice_policy::select(&mirror.tags, &listed).map_err(|error| error.to_string())?;
    let tags = tags.tags;
    let selected = tags.len();
    let attachments = listed.iter().filter(|tag| tag.attached_to().is_some());
    let attachments = attachments.cloned().collect();
    let mut looks: Vec<(Tag, CheckReason)> = tags
        .into_iter()
        .map(|tag| (tag, CheckReason::Listed))
        .collect();
    let listed: HashSet<Tag> = listed.into_iter().collect();
    let looked_at: HashSet<Tag> = looks.iter().map(|(tag, _)| tag.clone()).collect();
    for (tag, before) in known {
        // A listing that came back empty says nothing of what is gone.
        let is_unlisted = !listed.is_empty() && !listed.contains(tag) && before.digest.is_some();
        if is_unlisted {
            looks.push((tag.clone(), CheckReason::Unlisted));
        } else if !before.is_told && !looked_at.contains(tag) {
            looks.push((tag.clone(), CheckReason::Untold));
        }
    }
    Ok(Listing {
        looks,
        attachments,
        selected,
    })
}

impl TagPoll<'_> {
    /// Looks at one tag; where nothing changed that is one HEAD and nothing else.
    async fn look(
        &self,
        tag: &Tag,
        look: CheckReason,
        known: Option<&KnownTag>,
    ) -> Result<TagCheck, Error> {
        let mut found = TagCheck::default();
        let mut seen = self.head(tag, look, &mut found).await;
        let is_known = match known {
            Some(known) => known.is(&seen),
            None => !matches!(seen, Seen::At(_)),
        };
        if is_known {
            if let (Some(tags), Seen::At(_)) = (self.tags, &seen) {
                found.awaited = self.awaited(tags, tag, known).await?;
            }
            return Ok(found);
        }
        let key = key::upstream(&self.mirror.name, tag);
        let mut revision = known.map(|known| known.revision);
        for _ in 0..ROUNDS {
            let entry = self.entries.get(&key).await?;
            let (mut value, at) = entry.map_or_else(
                || (UpstreamTag::default(), None),
                |entry| (entry.value, Some(entry.revision)),
            );
            if at != revision {
                // Another poll was faster, and what was seen may be older than what that one saw.
                revision = at;
                seen = self.head(tag, look, &mut found).await;
            }
            let mut written = revision;
            if let Some(mut pending) =
                tag_moves::next(self.mirror, &value, &seen, sluice_domain::now())
            {
                pending.urgent = self.is_urgent;
                value.pending.push(pending);
                written = match self.entries.write(&key, &value, revision).await {
                    Ok(written) => Some(written),
                    Err(error) if error.is_conflict() => continue,
                    Err(error) => return Err(error.into()),
                };
                crash::point("poller.numbered");
            }
            let (told, settled) = tag_moves::told(self.mirror, tag, &value);
            if let (Some(written), false) = (written, told.is_empty()) {
                found.told = told;
                found.record = Some((settled, written));
            }
            return Ok(found);
        }
        tracing::debug!(mirror = %self.mirror.name, image.tag = %tag, "other polls change it; it is left to the next one");
        Ok(found)
    }

    /// Returns what would bring a tag that is known and not here; the mirror worker knows whether it is to come at all.
    async fn awaited(
        &self,
        tags: &Entries<TagEntry>,
        tag: &Tag,
        known: Option<&KnownTag>,
    ) -> Result<Option<MirrorTag>, Error> {
        let Some((known, digest)) = known.and_then(|known| Some((known, known.digest.as_ref()?)))
        else {
            return Ok(None);
        };
        let held = tags.get(&key::tag(&self.mirror.to, tag)).await?;
        let is_here = held.is_some_and(|held| source_of(&held.value) == digest.as_str());
        Ok((!is_here).then(|| MirrorTag {
            mirror: self.mirror.name.clone(),
            tag: tag.clone(),
            move_number: known.move_number,
            damaged: false,
            referrers: false,
            urgent: true,
        }))
    }

    async fn head(&self, tag: &Tag, look: CheckReason, found: &mut TagCheck) -> Seen {
        if look == CheckReason::Untold || self.used_up.load(Ordering::Relaxed) {
            return Seen::Nothing;
        }
        let repository = &self.mirror.from.repository;
        match self.client.resolve(repository, &tag.into()).await {
            Ok(Some(head)) => Seen::At(head.digest),
            // A listing may be cut short, or be of another time; only both together say that a tag is gone.
            Ok(None) if look == CheckReason::Unlisted => Seen::Gone,
            Ok(None) => Seen::Nothing,
            Err(error) => {
                if error.is_rate_limited() {
                    self.used_up.store(true, Ordering::Relaxed);
                }
                found.failure = Some(reason(&error));
                Seen::Nothing
            }
        }
    }
}

/// Tells an error with its source, which holds the reason of a broken connection.
fn reason(error: &sluice_registry::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
