//! What is attached to a promoted image follows it: signatures, attestations, SBOMs (invariant 1).
//!
//! They come after the image, and whenever more of them arrive; they go with it.

use std::collections::BTreeSet;

use sluice_bus::{Cause, Outcome};
use sluice_domain::{Digest, Repository, Tag};
use sluice_events::commands::JudgeImage;
use sluice_events::wire::state::{Decision, DecisionOutcome, TagEntry};
use sluice_registry::CopyJob;
use sluice_state::{Provenance, Standing, TagChange, Truth, describe, key};

use crate::facts::Subject;
use crate::handler::{Case, Error, Promoter};
use crate::place::Place;
use crate::promote::provenance;
use crate::targets::NAME;
use crate::told::Told;

/// What is attached to an image may have attachments itself, and those too; then it is enough.
const MAX_DEPTH: usize = 2;

/// Something attached, under a tag of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attachment {
    pub(crate) tag: Tag,
    pub(crate) digest: Digest,
}

impl Promoter {
    /// Returns the images of a repository to which a tag is attached.
    pub(crate) async fn bearing(
        &self,
        repository: &Repository,
        attachment: &Tag,
    ) -> Result<Vec<Subject>, Error> {
        let (mut to, mut depth) = (attachment.attached_to(), 0);
        let entries = self.state.tags.list(&key::tags_of(repository)).await?;
        let mut subjects = Vec::new();
        while let Some(manifest) = to.take() {
            for entry in &entries {
                let (Ok(tag), Ok(digest)) = (
                    entry.value.tag.parse::<Tag>(),
                    entry.value.digest.parse::<Digest>(),
                ) else {
                    continue;
                };
                let image = self.state.images.get(&key::image(&digest)).await?;
                let children = image.map(|image| image.value.children).unwrap_or_default();
                if digest != manifest
                    && !children
                        .iter()
                        .any(|child| child.digest == manifest.as_str())
                {
                    continue;
                }
                match tag.attached_to() {
                    Some(further) if depth < MAX_DEPTH => to = Some(further),
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

    /// Returns what is attached to manifests of a repository, by its entries, with the manifests of that.
    pub(crate) async fn attachments(
        &self,
        repository: &str,
        manifests: &[Digest],
    ) -> Result<(BTreeSet<Attachment>, BTreeSet<Digest>), Error> {
        let (mut found, mut below) = (BTreeSet::new(), BTreeSet::new());
        let mut level: BTreeSet<Digest> = manifests.iter().cloned().collect();
        for _ in 0..MAX_DEPTH {
            let mut next = BTreeSet::new();
            for tag in level.iter().flat_map(Tag::attachments_of) {
                let entry = self
                    .state
                    .tags
                    .get(&key::stored_tag(repository, &tag))
                    .await?;
                let settled = entry
                    .map(|entry| entry.value)
                    .filter(|entry| entry.claim.is_none());
                let Some(Ok(digest)) = settled.map(|entry| entry.digest.parse::<Digest>()) else {
                    continue;
                };
                let image = self.state.images.get(&key::image(&digest)).await?;
                let children = image.map(|image| image.value.children).unwrap_or_default();
                next.extend(
                    children
                        .iter()
                        .filter_map(|child| child.digest.parse::<Digest>().ok()),
                );
                next.insert(digest.clone());
                found.insert(Attachment { tag, digest });
            }
            below.extend(next.iter().cloned());
            level = next;
        }
        Ok((found, below))
    }

    /// Removes what is attached to a manifest that leaves a target.
    ///
    /// Where it is promoted again meanwhile, its next judgement, which whoever sweeps asks for, brings that again.
    pub(crate) async fn detach(&self, place: &Place, manifest: &Digest) -> Result<(), Error> {
        let stored = place.target.stored();
        let manifests = std::slice::from_ref(manifest);
        let (attached, below) = self.attachments(&stored, manifests).await?;
        for Attachment { tag, digest } in &attached {
            let change = TagChange {
                repository: place.repository(),
                tag,
                wanted: None,
                provenance: Provenance {
                    by: NAME.to_owned(),
                    ..Provenance::default()
                },
                truth: &Unwanted,
            };
            place.tags.apply(&change).await?;
            tracing::info!(image.repository = %place.target, image.tag = %tag, image.digest = %digest, "removed with what it was attached to");
        }
        for digest in &below {
            let repository = place.repository();
            place.registry.delete_manifest(repository, digest).await?;
        }
        Ok(())
    }

    /// Returns the judgements that bring what was attached late to promoted images after them.
    pub(crate) async fn late(
        &self,
        repository: &Repository,
        attachment: &Tag,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        let mut told = Told::default();
        for subject in self.bearing(repository, attachment).await? {
            if self.lacks_attachment(&subject).await? {
                let Subject {
                    repository,
                    tag,
                    digest,
                    ..
                } = subject;
                let id = format!(
                    "judge/attached/{repository}/{tag}/{digest}/{attachment}/{}",
                    cause.occurrence
                );
                told.command(
                    JudgeImage {
                        repository,
                        tag,
                        digest,
                    },
                    id,
                );
            }
        }
        Ok(told.into_outcome())
    }

    /// Says whether an image stands in a target without something that is attached to it at its source.
    async fn lacks_attachment(&self, subject: &Subject) -> Result<bool, Error> {
        let filter = key::decisions_on(&subject.repository, &subject.tag);
        for entry in self.state.decisions.list(&filter).await? {
            if entry.value.digest == subject.digest.as_str() && self.lacks(&entry.value).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Says the same of an image that a decision brought.
    pub(crate) async fn lacks(&self, decision: &Decision) -> Result<bool, Error> {
        if decision.promoted_at.is_none() || decision.outcome() != DecisionOutcome::Allow {
            return Ok(false);
        }
        let Ok(digest) = decision.digest.parse::<Digest>() else {
            return Ok(false);
        };
        let image = self.state.images.get(&key::image(&digest)).await?;
        let children = image.map(|image| image.value.children).unwrap_or_default();
        let mut manifests: Vec<Digest> = children
            .iter()
            .filter_map(|child| child.digest.parse().ok())
            .collect();
        manifests.push(digest);
        let (attached, _) = self.attachments(&decision.repository, &manifests).await?;
        for Attachment { tag, digest } in attached {
            let key = key::stored_tag(&decision.target, &tag);
            let there = self.state.tags.get(&key).await?;
            if !there.is_some_and(|there| is_there(&there.value, &digest)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings what is attached to a promoted image after it.
    pub(crate) async fn attach<T: Truth>(
        &self,
        case: &Case<'_>,
        place: &Place,
        truth: &T,
    ) -> Result<(), Error> {
        let source = &case.subject.repository;
        let (attached, _) = self.attachments(source.as_str(), case.manifests).await?;
        for Attachment { tag, digest } in attached {
            let there = self
                .state
                .tags
                .get(&key::target_tag(&place.target, &tag))
                .await?;
            if there.is_some_and(|there| is_there(&there.value, &digest)) {
                continue;
            }
            if truth.standing().await? == Standing::Superseded {
                return Ok(());
            }
            let job = CopyJob {
                source: &self.registry,
                source_repository: source,
                digest: &digest,
                target: &place.registry,
                target_repository: place.repository(),
                siblings: if place.is_remote() {
                    &[]
                } else {
                    std::slice::from_ref(source)
                },
            };
            let top = job.run().await?.top;
            if !place.is_remote() {
                describe(&self.state, &self.registry, source, &digest).await?;
            }
            let change = TagChange {
                repository: place.repository(),
                tag: &tag,
                wanted: Some(&top),
                provenance: provenance(case),
                truth,
            };
            place.tags.apply(&change).await?;
            tracing::info!(image.repository = %place.target, image.tag = %tag, image.digest = %digest, "brought what is attached to a promoted image");
        }
        Ok(())
    }
}

/// Nothing wants any more what was attached to a manifest that goes.
struct Unwanted;

impl Truth for Unwanted {
    async fn standing(&self) -> Result<Standing, sluice_state::Error> {
        Ok(Standing::Current)
    }
}

fn is_there(entry: &TagEntry, digest: &Digest) -> bool {
    entry.claim.is_none() && entry.digest == digest.as_str()
}
