//! What is attached to a promoted image follows it: signatures, attestations, SBOMs (invariant 1).
//!
//! They come after the image, and whenever more of them arrive; they go with it. None of them holds up the image. Nobody
//! scans them, so only what cannot be unpacked enters a target: signatures, attestations and bills of materials of known
//! kinds, each read to its end (`Client::admissible`), and of a list what refers to the image itself.

use std::collections::{BTreeMap, BTreeSet};

use sluice_bus::{Cause, Outcome};
use sluice_domain::{Class, Classify as _, Digest, Repository, Tag};
use sluice_events::commands::JudgeImage;
use sluice_events::wire::state::{Decision, DecisionOutcome, TagEntry};
use sluice_registry::{Admissible, CopyJob, CopyOptions};
use sluice_state::{
    AlwaysCurrent, Applied, Entry, Freshness, IfUnchanged, MergedIndex, Precondition, Provenance,
    TagChange, find_attachments, is_attachment, key, manifests_of, merge_index, source_of,
    update_image,
};

use crate::facts::Subject;
use crate::handler::{Error, Evaluated, Promoter};
use crate::pending_events::PendingEvents;
use crate::promote::provenance;
use crate::sweep::Sweep;
use crate::target_endpoint::TargetEndpoint;
use crate::targets::NAME;

/// The longest reason that is kept of what stays out, in characters.
const MAX_REFUSAL: usize = 2_000;

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
                if digest != manifest
                    && !manifests_of(&self.state, &digest)
                        .await?
                        .contains(&manifest)
                {
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

    /// Returns the judgements that bring what was attached late to promoted images after them.
    pub(crate) async fn late(
        &self,
        repository: &Repository,
        attachment: &Tag,
        cause: &Cause,
    ) -> Result<Outcome, Error> {
        let mut pending_events = PendingEvents::default();
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
        Ok(pending_events.into_outcome())
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
        let manifests = manifests_of(&self.state, &digest).await?;
        for (tag, entry) in find_attachments(&self.state, &decision.repository, &manifests).await? {
            let Some(digest) = settled(&entry) else {
                continue;
            };
            let key = key::stored_tag(&decision.target, &tag);
            let there = self.state.tags.get(&key).await?;
            if !there.is_some_and(|there| is_there(&there.value, &digest)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Brings what is attached to a promoted image after it; what cannot be brought now is looked for every hour.
    pub(crate) async fn attach<T: Precondition>(
        &self,
        case: &Evaluated<'_>,
        endpoint: &TargetEndpoint,
        precondition: &T,
    ) -> Result<(), Error> {
        let source = &case.subject.repository;
        let manifests = case.manifests().iter().cloned().collect();
        for (tag, entry) in find_attachments(&self.state, source.as_str(), &manifests).await? {
            let Some(digest) = settled(&entry) else {
                continue;
            };
            let key = key::target_tag(&endpoint.target, &tag);
            let there = self.state.tags.get(&key).await?.map(|entry| entry.value);
            let is_noted = there.as_ref().is_some_and(|there| is_there(there, &digest));
            let is_refused = there
                .as_ref()
                .is_some_and(|there| there.refused == digest.as_str());
            let brought = async {
                if is_refused || is_noted && endpoint.head(&tag).await?.is_some() {
                    return Ok(true);
                }
                if precondition.freshness().await? == Freshness::Superseded {
                    return Ok(false);
                }
                let attachment = Attachment {
                    tag: &tag,
                    digest: &digest,
                    there: there.as_ref(),
                };
                self.bring_attachment(case, endpoint, precondition, &attachment)
                    .await?;
                Ok(true)
            };
            match brought.await {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(
                    Error::Registry(error) | Error::State(sluice_state::Error::Registry(error)),
                ) => {
                    tracing::warn!(%error, image.repository = %endpoint.target, image.tag = %tag, "what is attached to a promoted image is not there");
                    if matches!(error.class(), Class::Permanent) {
                        self.refuse(endpoint, &tag, &digest, &error.to_string())
                            .await?;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn bring_attachment<T: Precondition>(
        &self,
        case: &Evaluated<'_>,
        endpoint: &TargetEndpoint,
        precondition: &T,
        attachment: &Attachment<'_>,
    ) -> Result<(), Error> {
        let (source, repository) = (&case.subject.repository, endpoint.repository());
        let Attachment { tag, digest, there } = attachment;
        let (top, left_out) = match self.registry.admissible(source, tag, digest).await? {
            Admissible::Whole(top) => (top, String::new()),
            Admissible::Part { top, left_out } => (top, left_out),
            Admissible::Nothing { reason } => {
                return self.refuse(endpoint, tag, digest, &reason).await;
            }
        };
        let job = CopyJob {
            source: &self.registry,
            source_repository: source,
            digest,
            target: &endpoint.registry,
            target_repository: repository,
            siblings: if endpoint.is_remote() {
                &[]
            } else {
                std::slice::from_ref(source)
            },
        };
        let options = CopyOptions {
            top: Some(top),
            ..CopyOptions::default()
        };
        let top = job.run_with(&options).await?.top;
        let joined = merge_index(&endpoint.registry, repository, tag, *there, top).await?;
        let Some(MergedIndex { top, before }) = joined else {
            let reason = "somebody else attached something under this tag, which is left there";
            return self.refuse(endpoint, tag, digest, reason).await;
        };
        let listed = self
            .images
            .read(&endpoint.registry, repository, &top.digest);
        update_image(&self.state, &top.digest, &listed.await?).await?;
        let mut provenance = provenance(case);
        provenance.subset.source = Some((*digest).clone()).filter(|digest| *digest != top.digest);
        let change = TagChange {
            repository,
            tag,
            wanted: Some(&top),
            provenance,
            precondition: &IfUnchanged {
                precondition,
                registry: &endpoint.registry,
                repository,
                tag,
                before: before.as_ref(),
                after: &top.digest,
            },
        };
        if let Applied::Done { .. } = endpoint.tags.apply(&change).await? {
            tracing::info!(image.repository = %endpoint.target, image.tag = %tag, image.digest = %top.digest, "brought what is attached to a promoted image");
        }
        if left_out.is_empty() && there.is_none_or(|there| there.refusal.is_empty()) {
            return Ok(());
        }
        self.note_refusal(endpoint, tag, &left_out, |_| {}).await
    }

    /// Notes that something stays out of a target, so that it is not tried again.
    async fn refuse(
        &self,
        endpoint: &TargetEndpoint,
        tag: &Tag,
        digest: &Digest,
        reason: &str,
    ) -> Result<(), Error> {
        let note = |entry: &mut TagEntry| entry.refused = digest.to_string();
        self.note_refusal(endpoint, tag, reason, note).await
    }

    /// Tells why something stays out of a target, or part of it, and keeps that in the tag's entry.
    async fn note_refusal<F: FnOnce(&mut TagEntry) + Send>(
        &self,
        endpoint: &TargetEndpoint,
        tag: &Tag,
        reason: &str,
        note: F,
    ) -> Result<(), Error> {
        let key = key::target_tag(&endpoint.target, tag);
        let entry = self.state.tags.get(&key).await?;
        let (mut entry, revision) = entry.map_or_else(Default::default, |entry| {
            (entry.value, Some(entry.revision))
        });
        let before = entry.clone();
        entry.repository = endpoint.target.stored();
        entry.tag = tag.to_string();
        entry.refusal = reason.chars().take(MAX_REFUSAL).collect();
        note(&mut entry);
        if entry == before {
            return Ok(());
        }
        if !reason.is_empty() {
            tracing::warn!(image.repository = %endpoint.target, image.tag = %tag, reason, "something attached to an image stays out of the target");
        }
        match self.state.tags.write(&key, &entry, revision).await {
            Err(error) if !error.is_conflict() => Err(error.into()),
            // Somebody is at work on the tag, and the next judgement looks again.
            _ => Ok(()),
        }
    }

    /// Returns what is attached to the manifests of an image in a target that it may leave.
    pub(crate) async fn attached(
        &self,
        sweep: &Sweep<'_>,
    ) -> Result<BTreeMap<Tag, TagEntry>, Error> {
        let manifests = sweep.manifests.iter().cloned().collect();
        let stored = sweep.endpoint.target.stored();
        let attached = find_attachments(&self.state, &stored, &manifests).await?;
        let is_there = |(_, entry): &(Tag, TagEntry)| !entry.digest.is_empty();
        Ok(attached.into_iter().filter(is_there).collect())
    }

    /// Removes what is attached to manifests that leave a target, with the manifests of that which nothing else needs.
    ///
    /// The manifests go first: whoever goes on with it after a crash finds them by the tags. Where an image is promoted
    /// again meanwhile, its next judgement, which whoever sweeps asks for, brings that again.
    pub(crate) async fn detach(
        &self,
        sweep: &Sweep<'_>,
        leaving: &BTreeSet<Digest>,
        mut attached: BTreeMap<Tag, TagEntry>,
    ) -> Result<(), Error> {
        let endpoint = sweep.endpoint;
        // What is attached to something attached goes with that.
        let mut gone = leaving.clone();
        for _ in 0..Tag::ATTACHMENT_DEPTH {
            for (tag, entry) in &attached {
                if tag.attached_to().is_some_and(|to| gone.contains(&to))
                    && let Ok(digest) = entry.digest.parse()
                {
                    gone.extend(self.reached(&digest, endpoint).await?);
                    gone.insert(digest);
                }
            }
        }
        attached.retain(|tag, _| tag.attached_to().is_some_and(|to| gone.contains(&to)));
        if attached.is_empty() {
            return Ok(());
        }
        let kept = self.kept(sweep, &attached).await?;
        // A list may name what refers to nothing here, and is an image of its own.
        let goes = |tag: &Tag| tag.attached_to().is_none_or(|to| !kept.contains(&to));
        for (tag, entry) in attached.iter().filter(|(tag, _)| goes(tag)) {
            let Ok(digest) = entry.digest.parse::<Digest>() else {
                continue;
            };
            let repository = endpoint.repository();
            for manifest in self
                .reached(&digest, endpoint)
                .await?
                .iter()
                .chain([&digest])
            {
                let goes = *manifest == digest
                    || !endpoint.is_remote()
                    || refers(endpoint, manifest, tag).await?;
                if goes && !kept.contains(manifest) {
                    endpoint
                        .registry
                        .delete_manifest(repository, manifest)
                        .await?;
                }
            }
            let change = TagChange {
                repository,
                tag,
                wanted: None,
                provenance: Provenance {
                    by: NAME.to_owned(),
                    ..Provenance::default()
                },
                precondition: &AlwaysCurrent,
            };
            endpoint.tags.apply(&change).await?;
            tracing::info!(image.repository = %endpoint.target, image.tag = %tag, image.digest = %digest, "removed with what it was attached to");
        }
        Ok(())
    }
}

/// Which repositories have anything that is attached to images, as far as that was looked at.
#[derive(Debug, Default)]
pub(crate) struct Bearing(BTreeMap<String, bool>);

impl Bearing {
    pub(crate) async fn has(
        &mut self,
        promoter: &Promoter,
        repository: &str,
    ) -> Result<bool, Error> {
        if let Some(has) = self.0.get(repository) {
            return Ok(*has);
        }
        let Ok(named) = repository.parse() else {
            return Ok(false);
        };
        let tags = &promoter.state.tags;
        let is_attached =
            |entry: &Entry<TagEntry>| !entry.value.digest.is_empty() && is_attachment(&entry.value);
        let has = tags
            .has_more_than(0, &key::tags_of(&named), is_attached)
            .await?;
        self.0.insert(repository.to_owned(), has);
        Ok(has)
    }
}

/// Something attached to an image, under a tag of its own.
struct Attachment<'a> {
    tag: &'a Tag,
    digest: &'a Digest,
    /// What the target has under that tag.
    there: Option<&'a TagEntry>,
}

/// Says whether a manifest refers to what a tag is attached to; others may have listed anything in a remote registry.
async fn refers(endpoint: &TargetEndpoint, manifest: &Digest, tag: &Tag) -> Result<bool, Error> {
    let reference = manifest.into();
    let read = endpoint
        .registry
        .manifest(endpoint.repository(), &reference);
    match read.await {
        Ok(manifest) => Ok(manifest.subject() == tag.attached_to()),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Returns what a tag names with which nobody is at work.
fn settled(entry: &TagEntry) -> Option<Digest> {
    entry.digest.parse().ok().filter(|_| entry.claim.is_none())
}

/// Says whether an entry is that of what was brought for a digest, or says that this stays out.
fn is_there(entry: &TagEntry, digest: &Digest) -> bool {
    let is_brought = entry.claim.is_none() && source_of(entry) == digest.as_str();
    is_brought || entry.refused == digest.as_str()
}
