//! A change of one tag: what it is to point to, where that came from, and on what the change depends.

use sluice_domain::{Digest, Repository, Tag};
use sluice_events::wire::state::Promotion;
use sluice_registry::Manifest;

use crate::error::Error;

/// Whether the change to a tag is still wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// The change is wanted.
    Current,
    /// A newer state wants something else.
    Superseded,
}

/// The state that a change to a tag depends on: an `upstream` entry, a decision, a retention plan.
pub trait Precondition: Send + Sync {
    /// Reads the state again, before the tag is written.
    fn freshness(&self) -> impl Future<Output = Result<Freshness, Error>> + Send;

    /// Reads again what may have changed while the tag was written, so that a stale change is undone.
    fn freshness_after(&self) -> impl Future<Output = Result<Freshness, Error>> + Send {
        self.freshness()
    }
}

/// The precondition of a change that is always wanted: a list that only grows, the removal of an attachment with its
/// image.
#[derive(Debug, Clone, Copy)]
pub struct AlwaysCurrent;

impl Precondition for AlwaysCurrent {
    async fn freshness(&self) -> Result<Freshness, Error> {
        Ok(Freshness::Current)
    }
}

/// Where the digest of a tag came from, as the tag's entry stores it.
#[derive(Debug, Clone, Default)]
pub struct Provenance {
    /// The stage that writes the tag.
    pub by: String,
    /// The mirror, if the image was mirrored.
    pub mirror: String,
    /// The move of the upstream tag.
    pub move_number: u64,
    /// The promotion, if the image was promoted.
    pub promotion: Option<Promotion>,
    /// The upstream digest and the platform filter, if only some platforms are mirrored.
    pub subset: PlatformSubset,
}

/// The upstream index of a filtered index, and its platform filter; the default is an image that is not filtered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlatformSubset {
    /// The digest upstream, if it differs from the digest of the tag.
    pub source: Option<Digest>,
    /// The platforms of the filter, empty for all.
    pub platforms: String,
}

/// A change of one tag.
#[derive(Debug)]
pub struct TagChange<'a, T> {
    /// The repository.
    pub repository: &'a Repository,
    /// The tag.
    pub tag: &'a Tag,
    /// The manifest to point the tag to, whose blobs and children are in the repository; `None` to remove the tag.
    pub wanted: Option<&'a Manifest>,
    /// Where the manifest came from.
    pub provenance: Provenance,
    /// The state on which the change depends.
    pub precondition: &'a T,
}

/// The result of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagChangeOutcome {
    /// The tag is as wanted.
    Done {
        /// The digest before this change, if it was another one.
        previous: Option<Digest>,
    },
    /// The precondition no longer holds; the tag was left to the newer change.
    Superseded,
    /// The repository is immutable and the tag names another digest already.
    Refused {
        /// The digest that the tag keeps.
        kept: Digest,
    },
}

/// A change whose precondition no longer holds, and of which traces may be left.
#[derive(Debug, Clone, Copy)]
pub(super) struct StaleChange<'a> {
    pub(super) repository: &'a Repository,
    pub(super) tag: &'a Tag,
    /// The digest that the tag was to name, `None` for a removal.
    pub(super) wanted: Option<&'a Digest>,
    pub(super) provenance: &'a Provenance,
    /// The claim holder of this attempt.
    pub(super) holder: &'a str,
}
