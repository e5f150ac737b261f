//! Syncs mirrors once: selects their tags, copies each of them, deletes those that were deleted at the source.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use sluice_domain::resources::{Mirror, OnDelete, TagSelection};
use sluice_domain::{
    Digest, InvalidName, RegistryHost, RemoteRepository, Repository, ResourceName, Tag,
};
use sluice_registry::{Client, ManifestRef};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::clients::Side;
use crate::image::{Image, Target};
use crate::outcome::CopyOutcome;
use crate::session::Session;

/// A registry, with a path before its repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// The registry.
    pub host: RegistryHost,
    /// The path, if any.
    pub prefix: Option<Repository>,
}

/// Where mirrors are copied to.
#[derive(Debug, Clone)]
pub enum SyncTarget {
    /// A registry.
    Registry(Destination),
    /// None: the digests of the tags of each mirror are recorded, every other tag is new.
    Recorded(HashMap<ResourceName, Arc<HashMap<Tag, Digest>>>),
}

/// The options of a sync.
#[derive(Debug, Clone)]
pub struct SyncOptions {
    /// Where the mirrors are copied to.
    pub target: SyncTarget,
    /// Deletes tags that were deleted at the source, for mirrors that want it.
    pub delete: bool,
    /// The number of images that are checked or copied concurrently.
    pub parallel: usize,
}

/// The result of one mirror, as far as it got.
#[derive(Debug, Clone)]
pub struct MirrorResult {
    /// The mirror.
    pub mirror: Mirror,
    /// The target repository.
    pub to: String,
    /// Why its tags could not be listed or deleted.
    pub failure: Option<String>,
    /// Its tags, in the order of their completion.
    pub tags: Vec<TagResult>,
    /// Whether the mirror was completed.
    pub is_done: bool,
}

/// The result of one tag.
#[derive(Debug, Clone)]
pub struct TagResult {
    /// The tag.
    pub tag: Tag,
    /// The outcome.
    pub outcome: TagOutcome,
}

/// What happened to a tag.
#[derive(Debug, Clone)]
pub enum TagOutcome {
    /// It is at the target, or would be.
    Copied(Box<CopyOutcome>),
    /// It was deleted at the source, and so at the target, or would be.
    Deleted,
    /// It failed.
    Failed(String),
}

/// The results so far; they are complete up to an interruption.
pub type SyncResults = Arc<Mutex<Vec<MirrorResult>>>;

impl FromStr for Destination {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_prefix("docker://").unwrap_or(text);
        let (host, prefix) = text.split_once('/').unwrap_or((text, ""));
        let prefix = prefix.trim_end_matches('/');
        Ok(Self {
            host: host.parse()?,
            prefix: (!prefix.is_empty()).then(|| prefix.parse()).transpose()?,
        })
    }
}

impl Destination {
    fn repository(&self, to: &Repository) -> Result<RemoteRepository, InvalidName> {
        Ok(RemoteRepository {
            host: self.host.clone(),
            repository: match &self.prefix {
                Some(prefix) => format!("{prefix}/{to}").parse()?,
                None => to.clone(),
            },
        })
    }
}

/// Returns the results of mirrors that are not started.
pub fn pending_results(mirrors: Vec<Mirror>, target: &SyncTarget) -> SyncResults {
    let results = mirrors.into_iter().map(|mirror| MirrorResult {
        to: match target {
            SyncTarget::Registry(Destination { host, prefix }) => match prefix {
                Some(prefix) => format!("{host}/{prefix}/{}", mirror.to),
                None => format!("{host}/{}", mirror.to),
            },
            SyncTarget::Recorded(_) => mirror.to.to_string(),
        },
        mirror,
        failure: None,
        tags: Vec::new(),
        is_done: false,
    });
    Arc::new(Mutex::new(results.collect()))
}

/// Syncs every mirror of the results; failures are part of the results. Dropping the future cancels the sync.
pub async fn sync(session: &Arc<Session>, options: &SyncOptions, results: &SyncResults) {
    let permits = Arc::new(Semaphore::new(options.parallel.max(1)));
    let mut tasks = JoinSet::new();
    for (number, mirror) in mirrors_of(results).into_iter().enumerate() {
        let sync = MirrorSync {
            session: session.clone(),
            options: options.clone(),
            results: results.clone(),
            permits: permits.clone(),
            number,
            mirror,
        };
        tasks.spawn(async move {
            match sync.run().await {
                Ok(()) => sync.update(|result| result.is_done = true),
                Err(error) => sync.fail(&error),
            }
        });
    }
    while let Some(joined) = tasks.join_next().await {
        if let Err(error) = joined {
            tracing::error!(%error, "the sync of a mirror ended unexpectedly");
        }
    }
}

fn mirrors_of(results: &SyncResults) -> Vec<Mirror> {
    let results = results.lock().unwrap_or_else(PoisonError::into_inner);
    results.iter().map(|result| result.mirror.clone()).collect()
}

struct MirrorSync {
    session: Arc<Session>,
    options: SyncOptions,
    results: SyncResults,
    permits: Arc<Semaphore>,
    number: usize,
    mirror: Mirror,
}

impl MirrorSync {
    async fn run(&self) -> anyhow::Result<()> {
        let mirror = &self.mirror;
        let target = self.target()?;
        let (selected, listed) = self.select().await?;
        self.session.progress().add_images(selected.len());
        let mut tasks = JoinSet::new();
        for tag in selected {
            let image = Image {
                source: mirror.from.clone(),
                reference: ManifestRef::Tag(tag.clone()),
                target: target.clone(),
                tag: Some(tag.clone()),
                platforms: mirror.platforms.clone(),
            };
            let session = self.session.clone();
            let (results, number) = (self.results.clone(), self.number);
            // A tag takes no memory before it has a permit, nor after it is done.
            let permit = self.permits.clone().acquire_owned().await?;
            while let Some(joined) = tasks.try_join_next() {
                joined.context("a copy ended unexpectedly")?;
            }
            tasks.spawn(async move {
                let _permit = permit;
                // The box is freed before the result is stored.
                let copied = Box::pin(session.copy_image(&image)).await;
                let outcome = match copied {
                    Ok(outcome) => {
                        session.progress().image_done(&image, Ok(&outcome));
                        TagOutcome::Copied(outcome.into())
                    }
                    Err(error) => {
                        let reason = format!("{error:#}");
                        session.progress().image_done(&image, Err(&reason));
                        TagOutcome::Failed(reason)
                    }
                };
                add_result(&results, number, TagResult { tag, outcome });
            });
        }
        while let Some(joined) = tasks.join_next().await {
            joined.context("a copy ended unexpectedly")?;
        }
        if self.options.delete && mirror.on_delete == OnDelete::Delete {
            self.delete_tags(&target, listed).await?;
        }
        Ok(())
    }

    fn target(&self) -> anyhow::Result<Target> {
        let to = &self.mirror.to;
        Ok(match &self.options.target {
            SyncTarget::Registry(destination) => Target::Registry(destination.repository(to)?),
            SyncTarget::Recorded(mirrors) => {
                let digests = mirrors.get(&self.mirror.name).cloned().unwrap_or_default();
                Target::Recorded(to.clone(), digests)
            }
        })
    }

    /// Returns the selected tags, and all tags of the source if they had to be listed.
    async fn select(&self) -> anyhow::Result<(Vec<Tag>, Option<Vec<Tag>>)> {
        let selection = &self.mirror.tags;
        if let Some(tags) = explicit_tags(selection) {
            return Ok((sluice_policy::select(selection, &tags)?.tags, None));
        }
        let listed = self.list().await?;
        self.session.cache_tags(&self.mirror.from, &listed);
        let selected = sluice_policy::select(selection, &listed)?.tags;
        Ok((selected, Some(listed)))
    }

    async fn list(&self) -> anyhow::Result<Vec<Tag>> {
        let from = &self.mirror.from;
        self.session.check_quota(&from.host)?;
        let _permit = self.permits.acquire().await;
        let client = self.session.client(Side::Source, &from.host)?;
        let listed = client.list_tags(&from.repository).await;
        let listed = listed.map_err(anyhow::Error::from);
        listed.inspect_err(|error| self.session.record_quota(error))
    }

    /// Deletes tags that the mirror selects and that were deleted at the source.
    async fn delete_tags(&self, target: &Target, listed: Option<Vec<Tag>>) -> anyhow::Result<()> {
        let Target::Registry(target) = target else {
            return Ok(());
        };
        let listed = match listed {
            Some(listed) => listed,
            None => self.list().await?,
        };
        // An empty list may be a failure of the registry.
        anyhow::ensure!(
            !listed.is_empty(),
            "`{}` lists no tags, so nothing was deleted",
            self.mirror.from
        );
        let client = self.session.client(Side::Destination, &target.host)?;
        let existing = match client.list_tags(&target.repository).await {
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        };
        for tag in existing {
            if !selects(&self.mirror, &tag)? || listed.contains(&tag) {
                continue;
            }
            // The list may be truncated or outdated.
            let outcome = match self.exists_at_source(&tag).await {
                Ok(true) => continue,
                Err(error) => TagOutcome::Failed(format!("not deleted: {error:#}")),
                Ok(false) => self.delete_tag(&client, &target.repository, &tag).await,
            };
            add_result(&self.results, self.number, TagResult { tag, outcome });
        }
        Ok(())
    }

    async fn delete_tag(&self, client: &Client, repository: &Repository, tag: &Tag) -> TagOutcome {
        if self.session.is_dry_run() {
            return TagOutcome::Deleted;
        }
        let ignore_tombstone = |_: Digest| async { Ok::<(), std::convert::Infallible>(()) };
        match client.delete_tag(repository, tag, ignore_tombstone).await {
            Ok(_) => TagOutcome::Deleted,
            Err(error) => TagOutcome::Failed(format!("{:#}", anyhow::Error::from(error))),
        }
    }

    /// Tells whether the tag exists at the source of this mirror, or of another one with the same target repository.
    async fn exists_at_source(&self, tag: &Tag) -> anyhow::Result<bool> {
        let mirrors = mirrors_of(&self.results);
        for mirror in mirrors.iter().filter(|mirror| mirror.to == self.mirror.to) {
            if !selects(mirror, tag)? {
                continue;
            }
            let client = self.session.client(Side::Source, &mirror.from.host)?;
            let head = client.head(&mirror.from.repository, &tag.into()).await;
            if head.map_err(anyhow::Error::from)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn fail(&self, error: &anyhow::Error) {
        self.session.progress().mirror_failed(&self.mirror, error);
        self.update(|result| result.failure = Some(format!("{error:#}")));
    }

    fn update(&self, change: impl FnOnce(&mut MirrorResult)) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = results.get_mut(self.number) {
            change(result);
        }
    }
}

fn add_result(results: &SyncResults, number: usize, tag: TagResult) {
    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(result) = results.get_mut(number) {
        result.tags.push(tag);
    }
}

/// Tells whether a mirror selects a tag, whatever its age.
fn selects(mirror: &Mirror, tag: &Tag) -> anyhow::Result<bool> {
    let any_age = TagSelection {
        newest: None,
        ..mirror.tags.clone()
    };
    let selected = sluice_policy::select(&any_age, std::slice::from_ref(tag))?;
    Ok(!selected.tags.is_empty())
}

/// Returns the tags of a selection without patterns, which needs no list of tags.
fn explicit_tags(selection: &TagSelection) -> Option<Vec<Tag>> {
    if selection.include.is_empty() || !selection.regex.is_empty() {
        return None;
    }
    // A pattern that parses as a tag has no wildcard, because tags cannot contain one.
    let tags = selection.include.iter().map(|name| name.as_str().parse());
    tags.collect::<Result<_, _>>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_without_patterns_needs_no_list() {
        let selection = |include: &[&str]| TagSelection {
            include: include.iter().map(|name| name.parse().unwrap()).collect(),
            ..TagSelection::default()
        };
        assert_eq!(
            explicit_tags(&selection(&["1.0", "latest"])).unwrap().len(),
            2
        );
        for include in [&["1.*"][..], &["1.0", "lat?st"], &["{a,b}"], &[]] {
            assert!(explicit_tags(&selection(include)).is_none(), "{include:?}");
        }
        let regex = TagSelection {
            regex: vec!["1".parse().unwrap()],
            ..selection(&["1.0"])
        };
        assert!(explicit_tags(&regex).is_none());
    }

    #[test]
    fn a_destination_is_a_registry_with_an_optional_path() {
        let read = |text: &str| text.parse::<Destination>();
        for (text, prefix) in [
            ("registry.example", None),
            ("registry.example/", None),
            ("localhost:5000/a/b/", Some("a/b")),
            ("docker://registry.example/a", Some("a")),
        ] {
            let read = read(text).unwrap().prefix;
            assert_eq!(read.as_ref().map(Repository::as_str), prefix);
        }
        for bad in ["", "/a", "https://registry.example", "a b", "r.example/A"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
