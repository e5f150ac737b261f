//! Carries mirrors out once: selects their tags, brings each of them, and collects how it went.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use sluice_domain::resources::{Mirror, OnDelete, TagSelection};
use sluice_domain::{Digest, RegistryHost, RemoteRepository, Repository, ResourceName, Tag};
use sluice_registry::{Client, ManifestRef};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::cost;
use crate::remote::Side;
use crate::transfer::{Brought, Image, Session, Target, Work};

/// Where mirrors lead to.
#[derive(Debug, Clone)]
pub(crate) enum SyncTarget {
    /// Into repositories of a registry, below a path if one is given.
    Registry(RegistryHost, Option<Repository>),
    /// Nowhere yet: everything is new but for what is said to be known, by mirror.
    Known(HashMap<ResourceName, Arc<HashMap<Tag, Digest>>>),
}

/// What to do, and how.
#[derive(Debug, Clone)]
pub(crate) struct Order {
    /// Where the mirrors lead to.
    pub(crate) place: SyncTarget,
    /// Whether tags are removed that disappeared at the source, where a mirror wants it.
    pub(crate) delete: bool,
    /// How many images are looked at or copied at a time.
    pub(crate) parallel: usize,
}

/// How one mirror went, as far as it got.
#[derive(Debug, Clone)]
pub(crate) struct MirrorResult {
    /// The mirror.
    pub(crate) mirror: Mirror,
    /// The repository that it leads to.
    pub(crate) to: String,
    /// Why its tags are not known, or not removed.
    pub(crate) failure: Option<String>,
    /// Its tags, as they were done.
    pub(crate) tags: Vec<TagResult>,
    /// Whether it came to its end.
    pub(crate) is_done: bool,
}

/// How one tag went.
#[derive(Debug, Clone)]
pub(crate) struct TagResult {
    /// The tag.
    pub(crate) tag: Tag,
    /// What became of it.
    pub(crate) end: End,
}

/// What became of a tag.
#[derive(Debug, Clone)]
pub(crate) enum End {
    /// It is there, or would be.
    Brought(Box<Brought>),
    /// It was removed because the source has it no longer, or would be.
    Removed,
    /// It failed.
    Failed(String),
}

/// The results until now; whoever interrupts the work still gets them.
pub(crate) type Results = Arc<Mutex<Vec<MirrorResult>>>;

/// Makes the results of mirrors that are not begun.
pub(crate) fn results(mirrors: Vec<Mirror>, place: &SyncTarget) -> Results {
    let begun = mirrors.into_iter().map(|mirror| MirrorResult {
        to: match place {
            SyncTarget::Registry(host, prefix) => match prefix {
                Some(prefix) => format!("{host}/{prefix}/{}", mirror.to),
                None => format!("{host}/{}", mirror.to),
            },
            SyncTarget::Known(_) => mirror.to.to_string(),
        },
        mirror,
        failure: None,
        tags: Vec::new(),
        is_done: false,
    });
    Arc::new(Mutex::new(begun.collect()))
}

/// Carries out every mirror; what fails is noted and stops nothing else. To drop the future cancels it.
pub(crate) async fn run(session: &Arc<Session>, order: &Order, results: &Results) {
    let turns = Arc::new(Semaphore::new(order.parallel.max(1)));
    let mirrors: Vec<Mirror> = {
        let results = results.lock().unwrap_or_else(PoisonError::into_inner);
        results.iter().map(|result| result.mirror.clone()).collect()
    };
    let mut work = JoinSet::new();
    for (number, mirror) in mirrors.into_iter().enumerate() {
        let run = OfMirror {
            session: session.clone(),
            order: order.clone(),
            results: results.clone(),
            turns: turns.clone(),
            number,
            mirror,
        };
        work.spawn(async move {
            match run.run().await {
                Ok(()) => run.update(|result| result.is_done = true),
                Err(error) => run.fail(&error),
            }
        });
    }
    while let Some(ended) = work.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a mirror ended unexpectedly");
        }
    }
}

struct OfMirror {
    session: Arc<Session>,
    order: Order,
    results: Results,
    turns: Arc<Semaphore>,
    number: usize,
    mirror: Mirror,
}

impl OfMirror {
    async fn run(&self) -> anyhow::Result<()> {
        let mirror = &self.mirror;
        let target = self.target()?;
        let (selected, listed) = self.select().await?;
        self.session.board.expect(selected.len());
        let mut work = JoinSet::new();
        for tag in selected {
            let image = Image {
                source: mirror.from.clone(),
                wanted: ManifestRef::Tag(tag.clone()),
                target: target.clone(),
                tag: Some(tag.clone()),
                platforms: mirror.platforms.clone(),
            };
            let session = self.session.clone();
            let (results, number) = (self.results.clone(), self.number);
            // What has no turn yet takes no memory, nor what has ended.
            let turn = self.turns.clone().acquire_owned().await?;
            while let Some(ended) = work.try_join_next() {
                ended.context("a copy ended unexpectedly")?;
            }
            work.spawn(async move {
                let _turn = turn;
                // In a place of its own, which is free again before anybody takes note of the end.
                let end = match Box::pin(session.bring(&image)).await {
                    Ok(brought) => End::Brought(brought.into()),
                    Err(error) => End::Failed(format!("{error:#}")),
                };
                session.board.done(line(&image, &end).as_deref());
                note(&results, number, TagResult { tag, end });
            });
        }
        while let Some(ended) = work.join_next().await {
            ended.context("a copy ended unexpectedly")?;
        }
        if self.order.delete && mirror.on_delete == OnDelete::Delete {
            self.remove(&target, listed).await?;
        }
        Ok(())
    }

    fn target(&self) -> anyhow::Result<Target> {
        let to = &self.mirror.to;
        match &self.order.place {
            SyncTarget::Registry(host, prefix) => {
                let repository = match prefix {
                    Some(prefix) => format!("{prefix}/{to}").parse()?,
                    None => to.clone(),
                };
                Ok(Target::Registry(RemoteRepository {
                    host: host.clone(),
                    repository,
                }))
            }
            SyncTarget::Known(known) => {
                let known = known.get(&self.mirror.name).cloned().unwrap_or_default();
                Ok(Target::Known(to.clone(), known))
            }
        }
    }

    /// Returns the tags to bring, and all tags of the source if they had to be listed for that.
    async fn select(&self) -> anyhow::Result<(Vec<Tag>, Option<Vec<Tag>>)> {
        let selection = &self.mirror.tags;
        if let Some(named) = named(selection) {
            return Ok((sluice_policy::select(selection, &named)?.tags, None));
        }
        let listed = self.list().await?;
        self.session.note_tags(&self.mirror.from, &listed);
        let selected = sluice_policy::select(selection, &listed)?.tags;
        Ok((selected, Some(listed)))
    }

    async fn list(&self) -> anyhow::Result<Vec<Tag>> {
        let from = &self.mirror.from;
        self.session.open(&from.host)?;
        let _turn = self.turns.acquire().await;
        let client = self.session.clients.client(Side::Source, &from.host)?;
        let listed = client.tags(&from.repository).await;
        let listed = listed.map_err(anyhow::Error::from);
        listed.inspect_err(|error| self.session.note_quota(error))
    }

    /// Removes tags that the mirror would take and that the source has no longer.
    async fn remove(&self, target: &Target, listed: Option<Vec<Tag>>) -> anyhow::Result<()> {
        let Target::Registry(target) = target else {
            return Ok(());
        };
        let listed = match listed {
            Some(listed) => listed,
            None => self.list().await?,
        };
        // A listing that came back empty says nothing of what is gone.
        anyhow::ensure!(
            !listed.is_empty(),
            "`{}` lists no tags, so nothing was removed",
            self.mirror.from
        );
        let client = self
            .session
            .clients
            .client(Side::Destination, &target.host)?;
        let there = match client.tags(&target.repository).await {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        };
        for tag in there {
            if !takes(&self.mirror, &tag)? {
                continue;
            }
            if listed.contains(&tag) {
                continue;
            }
            // A listing may be cut short, or be of another time.
            let end = match self.is_wanted(&tag).await {
                Ok(true) => continue,
                Err(error) => End::Failed(format!("not removed: {error:#}")),
                Ok(false) => self.remove_tag(&client, &target.repository, &tag).await,
            };
            note(&self.results, self.number, TagResult { tag, end });
        }
        Ok(())
    }

    async fn remove_tag(&self, client: &Client, repository: &Repository, tag: &Tag) -> End {
        if self.session.is_dry_run() {
            return End::Removed;
        }
        let nobody = |_: Digest| async { Ok::<(), std::convert::Infallible>(()) };
        match client.delete_tag(repository, tag, nobody).await {
            Ok(_) => End::Removed,
            Err(error) => End::Failed(format!("{:#}", anyhow::Error::from(error))),
        }
    }

    /// Says whether the source still has a tag, or that of another mirror which takes it into the same repository.
    async fn is_wanted(&self, tag: &Tag) -> anyhow::Result<bool> {
        let mirrors: Vec<Mirror> = {
            let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
            results.iter().map(|result| result.mirror.clone()).collect()
        };
        for mirror in mirrors.iter().filter(|mirror| mirror.to == self.mirror.to) {
            if !takes(mirror, tag)? {
                continue;
            }
            let client = self
                .session
                .clients
                .client(Side::Source, &mirror.from.host)?;
            let head = client.head(&mirror.from.repository, &tag.into()).await;
            if head.map_err(anyhow::Error::from)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn fail(&self, error: &anyhow::Error) {
        let told = format!("{}: failed: {error:#}", self.mirror.from);
        self.session.board.note(&told);
        self.update(|result| result.failure = Some(format!("{error:#}")));
    }

    fn update(&self, change: impl FnOnce(&mut MirrorResult)) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = results.get_mut(self.number) {
            change(result);
        }
    }
}

/// Returns what is told of an image where nobody looks at bars: what was done, but not what only might be.
fn line(image: &Image, end: &End) -> Option<String> {
    match end {
        End::Failed(reason) => Some(format!("{image}: failed: {reason}")),
        End::Brought(brought)
            if brought
                .works()
                .into_iter()
                .any(|work| matches!(work, Work::Copied(_))) =>
        {
            Some(format!("{image}: {}", cost::told(brought)))
        }
        End::Brought(_) | End::Removed => None,
    }
}

fn note(results: &Results, number: usize, tag: TagResult) {
    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(result) = results.get_mut(number) {
        result.tags.push(tag);
    }
}

/// Says whether a mirror takes a tag, if it is not too old.
fn takes(mirror: &Mirror, tag: &Tag) -> anyhow::Result<bool> {
    let any_age = TagSelection {
        newest: None,
        ..mirror.tags.clone()
    };
    let selected = sluice_policy::select(&any_age, std::slice::from_ref(tag))?;
    Ok(!selected.tags.is_empty())
}

/// Returns the tags that a selection names one by one, so that no list is needed to know them.
fn named(selection: &TagSelection) -> Option<Vec<Tag>> {
    if selection.include.is_empty() || !selection.regex.is_empty() {
        return None;
    }
    // A pattern that is a tag has no wildcard, because no tag may hold one.
    let tags = selection.include.iter().map(|name| name.as_str().parse());
    tags.collect::<Result<_, _>>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_are_named_one_by_one_need_no_list() {
        let selection = |include: &[&str]| TagSelection {
            include: include.iter().map(|name| name.parse().unwrap()).collect(),
            ..TagSelection::default()
        };
        assert_eq!(named(&selection(&["1.0", "latest"])).unwrap().len(), 2);
        for include in [&["1.*"][..], &["1.0", "lat?st"], &["{a,b}"], &[]] {
            assert!(named(&selection(include)).is_none(), "{include:?}");
        }
        let regex = TagSelection {
            regex: vec!["1".parse().unwrap()],
            ..selection(&["1.0"])
        };
        assert!(named(&regex).is_none());
    }
}
