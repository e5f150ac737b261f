//! One move of an upstream tag that is to be mirrored, and why a command asks for it.

use sluice_domain::resources::Mirror;
use sluice_domain::{Digest, RemoteRepository, Repository, ResourceName, Tag};
use sluice_events::commands::MirrorTag;
use sluice_events::facts::{TagMirrored, UpstreamTagMoved};
use sluice_events::wire::state::UpstreamTag;
use sluice_state::{PlatformSubset, Provenance, Pulls};

/// The stage's name in the entries of tags.
pub(crate) const NAME: &str = "mirror-worker";

/// Why a command asks for a tag to be mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MirrorReason {
    /// The tag is not what upstream has.
    Outdated,
    /// Manifests or blobs of the tag are missing in the registry.
    Damaged,
    /// Referrers of the image are to be copied.
    Referrers,
}

impl MirrorReason {
    pub(crate) const fn of(command: &MirrorTag) -> Self {
        if command.referrers {
            Self::Referrers
        } else if command.damaged {
            Self::Damaged
        } else {
            Self::Outdated
        }
    }
}

/// One move of an upstream tag that is to be mirrored.
#[derive(Debug, Clone)]
pub(crate) struct MirrorTask {
    pub(crate) mirror: ResourceName,
    pub(crate) source: RemoteRepository,
    pub(crate) repository: Repository,
    pub(crate) tag: Tag,
    /// The digest upstream.
    pub(crate) digest: Digest,
    pub(crate) move_number: u64,
    /// The pulls of the upstream's budget that the copy may use.
    pub(crate) pulls: Pulls,
}

impl From<UpstreamTagMoved> for MirrorTask {
    fn from(event: UpstreamTagMoved) -> Self {
        Self {
            mirror: event.mirror,
            source: event.source,
            repository: event.repository,
            tag: event.tag,
            digest: event.digest,
            move_number: event.move_number,
            pulls: pulls_for(event.urgent),
        }
    }
}

impl MirrorTask {
    /// Returns the last recorded move of an upstream tag; `None` if the tag has no digest.
    pub(crate) fn of_entry(
        mirror: &Mirror,
        tag: &Tag,
        upstream: &UpstreamTag,
        pulls: Pulls,
    ) -> Option<Self> {
        Some(Self {
            mirror: mirror.name.clone(),
            source: mirror.from.clone(),
            repository: mirror.to.clone(),
            tag: tag.clone(),
            digest: upstream.digest.parse().ok()?,
            move_number: upstream.move_number,
            pulls,
        })
    }

    /// Returns the command that asks for this move.
    pub(crate) fn command(&self, reason: MirrorReason) -> MirrorTag {
        MirrorTag {
            mirror: self.mirror.clone(),
            tag: self.tag.clone(),
            move_number: self.move_number,
            damaged: reason == MirrorReason::Damaged,
            referrers: reason == MirrorReason::Referrers,
            urgent: self.pulls == Pulls::Urgent,
        }
    }

    /// Returns the origin of the mirrored image, for the entry of the tag.
    pub(crate) fn provenance(&self, subset: PlatformSubset) -> Provenance {
        Provenance {
            by: NAME.to_owned(),
            mirror: self.mirror.to_string(),
            move_number: self.move_number,
            promotion: None,
            subset,
        }
    }

    /// Returns the event of the mirrored tag, for which nothing had to be copied.
    pub(crate) fn mirrored(
        &self,
        digest: Digest,
        media_type: String,
        size_bytes: u64,
    ) -> TagMirrored {
        TagMirrored {
            mirror: self.mirror.clone(),
            source: self.source.clone(),
            repository: self.repository.clone(),
            tag: self.tag.clone(),
            source_digest: Some(self.digest.clone()).filter(|source| *source != digest),
            digest,
            media_type,
            size_bytes,
            blobs_copied: 0,
            blobs_mounted: 0,
            blobs_skipped: 0,
            bytes_copied: 0,
            move_number: self.move_number,
        }
    }
}

/// Returns the pulls for a message, which is urgent if a person waits.
pub(crate) const fn pulls_for(urgent: bool) -> Pulls {
    if urgent {
        Pulls::Urgent
    } else {
        Pulls::Background
    }
}
