//! What is attached to an image follows it where that is wanted: signatures, attestations, SBOMs.
//!
//! A source lists them by its API for referrers or under a tag that is named after the digest, and cosign puts what it
//! makes under such tags too. A list is a hint: what is listed has to say itself what it refers to. A destination that does
//! not list them itself gets a list under that tag, as a running Sluice writes it (OCI distribution specification 1.1).
//! What somebody else attached at the destination stays.

mod follow;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use sluice_domain::{Digest, RemoteRepository, Tag};
use sluice_registry::{Client, Cost};
use tokio::sync::OnceCell;

use self::follow::Following;
use super::{Brought, Image, Session, Target, Work};
use crate::remote::Side;

/// What is attached to an image, as far as it came with it, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attached {
    brought: BTreeSet<Digest>,
    read: BTreeSet<Digest>,
    /// What that took.
    pub(crate) work: Work,
    /// What is not attached to it, whatever the source says, or cannot be taken, and why.
    pub(crate) left_out: BTreeSet<String>,
    /// Why something that is attached to it is not there.
    pub(crate) failure: Option<String>,
}

impl Attached {
    /// Returns how many things came, or would.
    pub(crate) fn count(&self) -> u64 {
        u64::try_from(self.brought.len()).unwrap_or(u64::MAX)
    }

    fn add(&mut self, digest: &Digest, work: Work) {
        if self.brought.insert(digest.clone()) {
            self.work.add(work);
        }
    }

    /// Counts what has to be read at the source to know what to bring, which is a pull as any manifest.
    fn plan_to_read(&mut self, digest: &Digest) {
        if self.read.insert(digest.clone()) {
            self.work.add(Work::Planned(Cost {
                pulls: 1,
                requests: 1,
                ..Cost::default()
            }));
        }
    }

    fn leave_out(&mut self, what: impl std::fmt::Display, reason: impl std::fmt::Display) {
        self.left_out.insert(format!("{what}: {reason}"));
    }
}

/// What a command knows of what is attached to images.
#[derive(Debug, Default)]
pub(crate) struct Attachments {
    /// The tags of sources that are named after a digest; each source is asked once.
    tags: Mutex<HashMap<RemoteRepository, Arc<OnceCell<BTreeSet<Tag>>>>>,
    /// The sources that have no API for referrers.
    unlisting: Mutex<HashSet<RemoteRepository>>,
    /// Who looks at what is attached to a manifest at a destination.
    turns: Mutex<HashMap<(RemoteRepository, Digest), Turn>>,
}

/// By source, the image with which all of that came: what others share with it they need not ask for.
type Turn = Arc<tokio::sync::Mutex<BTreeMap<RemoteRepository, String>>>;

impl Attachments {
    fn turn(&self, target: &RemoteRepository, subject: &Digest) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (target.clone(), subject.clone());
        turns.entry(place).or_default().clone()
    }

    fn cell(&self, from: &RemoteRepository) -> Arc<OnceCell<BTreeSet<Tag>>> {
        let mut tags = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        tags.entry(from.clone()).or_default().clone()
    }

    /// Takes note of all tags of a source, so that it need not be asked for them.
    pub(crate) fn note(&self, from: &RemoteRepository, tags: &[Tag]) {
        let named = tags.iter().filter(|tag| tag.attached_to().is_some());
        // Where it is known already, that is as good.
        self.cell(from).set(named.cloned().collect()).ok();
    }

    fn is_unlisting(&self, from: &RemoteRepository) -> bool {
        let unlisting = self.unlisting.lock();
        unlisting
            .unwrap_or_else(PoisonError::into_inner)
            .contains(from)
    }

    fn unlist(&self, from: &RemoteRepository) {
        let unlisting = self.unlisting.lock();
        unlisting
            .unwrap_or_else(PoisonError::into_inner)
            .insert(from.clone());
    }
}

impl Session {
    /// Brings what is attached to an image that is at its destination.
    pub(super) async fn attach(
        &self,
        source: &Client,
        image: &Image,
        brought: &mut Brought,
    ) -> anyhow::Result<()> {
        let (Some(known), Target::Registry(to)) = (&self.attachments, &image.target) else {
            return Ok(());
        };
        if let Some(tag) = &image.tag
            && tag.attached_to().is_some()
        {
            return Ok(());
        }
        let destination = self.clients.client(Side::Destination, &to.host)?;
        let following = Following {
            session: self,
            known,
            image,
            source,
            destination: &destination,
            to,
        };
        following
            .follow(&brought.digest, &mut brought.attached)
            .await
    }
}
