//! Finds promoted images whose attachments are missing in the target.

use std::collections::BTreeMap;

use sluice_domain::{Digest, Repository, Tag};
use sluice_events::commands::JudgeImage;
use sluice_events::wire::state::{Decision, DecisionOutcome, TagEntry};
use sluice_state::{Entry, State, find_attachments, is_attachment, key, manifests_of, source_of};

use crate::error::Error;
use crate::evaluate::subject::Subject;
use crate::targets::pending_events::PendingEvents;

/// Returns the images of a repository to which a tag is attached.
async fn images_with_attachment(
    state: &State,
    repository: &Repository,
    attachment: &Tag,
) -> Result<Vec<Subject>, Error> {
    let (mut to, mut depth) = (attachment.attached_to(), 0);
    let entries = state.tags.list(&key::tags_of(repository)).await?;
    let mut subjects = Vec::new();
    while let Some(manifest) = to.take() {
        for entry in &entries {
            let (Ok(tag), Ok(digest)) = (
                entry.value.tag.parse::<Tag>(),
                entry.value.digest.parse::<Digest>(),
            ) else {
                continue;
            };
            if digest != manifest && !manifests_of(state, &digest).await?.contains(&manifest) {
                continue;
            }
            match tag.attached_to() {
                Some(further) if depth < Tag::ATTACHMENT_DEPTH => to = Some(further),
                Some(_) => {}
                None => subjects.push(Subject {
                    repository: repository.clone(),
                    tag,
                    digest,
                    current: Some(entry.value.clone()),
                }),
            }
        }
        depth += 1;
    }
    Ok(subjects)
}

/// Returns the evaluations that copy an attachment which arrived after its images were promoted.
pub(crate) async fn evaluate_images_with(
    state: &State,
    repository: &Repository,
    attachment: &Tag,
    occurrence: &str,
) -> Result<PendingEvents, Error> {
    let mut pending_events = PendingEvents::default();
    for subject in images_with_attachment(state, repository, attachment).await? {
        if is_attachment_missing(state, &subject).await? {
            let Subject {
                repository,
                tag,
                digest,
                ..
            } = subject;
            let id =
                format!("judge/attached/{repository}/{tag}/{digest}/{attachment}/{occurrence}");
            pending_events.command(
                JudgeImage {
                    repository,
                    tag,
                    digest,
                },
                id,
            );
        }
    }
    Ok(pending_events)
}

/// Says whether a target has an image without one of its attachments.
async fn is_attachment_missing(state: &State, subject: &Subject) -> Result<bool, Error> {
    let filter = key::decisions_on(&subject.repository, &subject.tag);
    for entry in state.decisions.list(&filter).await? {
        if entry.value.digest == subject.digest.as_str()
            && has_missing_attachment(state, &entry.value).await?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Says whether the target of a decision has its image without one of its attachments.
pub(crate) async fn has_missing_attachment(
    state: &State,
    decision: &Decision,
) -> Result<bool, Error> {
    if decision.promoted_at.is_none() || decision.outcome() != DecisionOutcome::Allow {
        return Ok(false);
    }
    let Ok(digest) = decision.digest.parse::<Digest>() else {
        return Ok(false);
    };
    let manifests = manifests_of(state, &digest).await?;
    for (tag, entry) in find_attachments(state, &decision.repository, &manifests).await? {
        let Some(digest) = settled_digest(&entry) else {
            continue;
        };
        let key = key::stored_tag(&decision.target, &tag);
        let there = state.tags.get(&key).await?;
        if !there.is_some_and(|there| is_handled(&there.value, &digest)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Remembers which repositories have attachments.
#[derive(Debug, Default)]
pub(crate) struct RepositoriesWithAttachments(BTreeMap<String, bool>);

impl RepositoriesWithAttachments {
    /// Says whether a repository has attachments.
    pub(crate) async fn contains(
        &mut self,
        state: &State,
        repository: &str,
    ) -> Result<bool, Error> {
        if let Some(has) = self.0.get(repository) {
            return Ok(*has);
        }
        let Ok(named) = repository.parse() else {
            return Ok(false);
        };
        let is_attached =
            |entry: &Entry<TagEntry>| !entry.value.digest.is_empty() && is_attachment(&entry.value);
        let has = state
            .tags
            .has_more_than(0, &key::tags_of(&named), is_attached)
            .await?;
        self.0.insert(repository.to_owned(), has);
        Ok(has)
    }
}

/// Returns the digest of a tag that is not claimed.
pub(super) fn settled_digest(entry: &TagEntry) -> Option<Digest> {
    entry.digest.parse().ok().filter(|_| entry.claim.is_none())
}

/// Says whether the tag of an attachment in a target is that of a digest of its source, or says that this digest is refused.
pub(super) fn is_handled(entry: &TagEntry, digest: &Digest) -> bool {
    let is_copied = entry.claim.is_none() && source_of(entry) == digest.as_str();
    is_copied || entry.refused == digest.as_str()
}
