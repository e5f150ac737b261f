//! What a session has learned about attachments: tags of sources, sources without a referrers API, completed subjects.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use sluice_domain::{Digest, RemoteRepository, Tag};
use tokio::sync::OnceCell;

/// The cache of one session.
#[derive(Debug, Default)]
pub(crate) struct AttachmentCache {
    /// The tags of each source that are named after a digest.
    tags: Mutex<HashMap<RemoteRepository, Arc<OnceCell<BTreeSet<Tag>>>>>,
    /// The sources without a referrers API.
    without_referrers: Mutex<HashSet<RemoteRepository>>,
    /// Locks for the subjects at a target.
    subjects: Mutex<HashMap<(RemoteRepository, Digest), SubjectLock>>,
}

/// Locks a subject; holds by source the image with which its attachments were copied, so that other images skip them.
pub(crate) type SubjectLock = Arc<tokio::sync::Mutex<BTreeMap<RemoteRepository, String>>>;

impl AttachmentCache {
    /// Returns the lock of a subject at a target.
    pub(crate) fn subject(&self, target: &RemoteRepository, subject: &Digest) -> SubjectLock {
        let mut subjects = self.subjects.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (target.clone(), subject.clone());
        subjects.entry(key).or_default().clone()
    }

    /// Returns the attachment tags of a source, which are listed once.
    pub(crate) fn tags(&self, source: &RemoteRepository) -> Arc<OnceCell<BTreeSet<Tag>>> {
        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        tags.entry(source.clone()).or_default().clone()
    }

    /// Sets the tags of a source that were listed for another purpose.
    pub(crate) fn set_tags(&self, source: &RemoteRepository, tags: &[Tag]) {
        let attachments = tags.iter().filter(|tag| tag.attached_to().is_some());
        // Tags that are set already are as good.
        self.tags(source).set(attachments.cloned().collect()).ok();
    }

    /// Tells whether a source has a referrers API, as far as known.
    pub(crate) fn has_referrers_api(&self, source: &RemoteRepository) -> bool {
        let without = self.without_referrers.lock();
        !without
            .unwrap_or_else(PoisonError::into_inner)
            .contains(source)
    }

    /// Records that a source has no referrers API.
    pub(crate) fn set_without_referrers(&self, source: &RemoteRepository) {
        let without = self.without_referrers.lock();
        without
            .unwrap_or_else(PoisonError::into_inner)
            .insert(source.clone());
    }
}
