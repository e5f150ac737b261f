//! What a change leaves behind that is not wanted any more: it may have come too late, or died on the way.

use chrono::{DateTime, TimeDelta, Utc};
use sluice_domain::{Digest, Repository, Tag, now};
use sluice_events::wire::state::{Claim, TagEntry};
use sluice_events::{time_from_wire, time_to_wire};
use sluice_service::crash;

use super::{Provenance, ROUNDS, TagWriter, holder, refuse_foreign_claim, settle, split, text};
use crate::error::Error;

/// No claim is made for longer than this; one that says so is nobody's, so that none holds up a withdrawal for ever.
const LONGEST_CLAIM: TimeDelta = TimeDelta::hours(1);

/// Returns the claim of somebody who changes a tag now, with its end.
#[must_use]
pub fn live_claim(entry: &TagEntry) -> Option<(&Claim, DateTime<Utc>)> {
    let claim = entry.claim.as_ref()?;
    let until = time_from_wire(claim.until.as_ref())?;
    let now = now();
    (now < until && until - now <= LONGEST_CLAIM).then_some((claim, until))
}

/// A change that is no longer wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct StaleChange<'a> {
    pub(super) repository: &'a Repository,
    pub(super) tag: &'a Tag,
    /// What the tag was to name, `None` for a removal.
    pub(super) wanted: Option<&'a Digest>,
    pub(super) provenance: &'a Provenance,
    /// Who carries it out now.
    pub(super) holder: &'a str,
}

impl TagWriter {
    /// Leaves a tag to whoever wants something else, and nothing behind of a change that is superseded.
    ///
    /// It, or an earlier life of it, may have been so slow that its claim had lapsed, and have written over what was
    /// settled meanwhile: that is brought back. Or it died with its claim, which nobody else would end. For whoever finds
    /// a change superseded before it comes to [`TagWriter::apply`], which does the same.
    ///
    /// # Errors
    /// [`Error::Claimed`] while somebody changes the tag, who may not see what this left; or a failing bus or registry.
    pub async fn clean_up_stale(
        &self,
        repository: &Repository,
        tag: &Tag,
        wanted: Option<&Digest>,
        provenance: &Provenance,
    ) -> Result<(), Error> {
        let holder = holder(&provenance.by);
        let late = StaleChange {
            repository,
            tag,
            wanted,
            provenance,
            holder: &holder,
        };
        for _ in 0..ROUNDS {
            match self.is_left(late).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::TooManyConflicts {
            tag: format!("{repository}:{tag}"),
        })
    }

    /// Looks at the tag once, and puts in order what the change left; says whether nothing more is to be done.
    pub(super) async fn is_left(&self, late: StaleChange<'_>) -> Result<bool, Error> {
        let key = self.key(late.repository, late.tag);
        let wanted = text(late.wanted);
        let (mut value, revision) = split(self.state.tags.get(&key).await?);
        if revision.is_none() || (value.claim.is_none() && value.digest == wanted) {
            return Ok(true);
        }
        refuse_foreign_claim(late.repository, late.tag, &value, late.holder)?;
        let head = self
            .registry
            .head(late.repository, &late.tag.into())
            .await?;
        let there = text(head.as_ref().map(|head| &head.digest));
        let Some(claim) = value.claim.take() else {
            if there != wanted {
                return Ok(true);
            }
            return self.restore(late, value, revision).await;
        };
        if there == wanted && claim.digest == wanted {
            settle(&mut value, late.provenance, late.wanted, now());
        } else if there.is_empty() && claim.digest.is_empty() && value.pruning.is_none() {
            // A removal that was carried out, and not noted; one by retention has to be told, and is looked for.
            settle(&mut value, late.provenance, None, now());
        } else if there == value.digest {
            value.pruning = None;
        } else if there == wanted && claim.digest == value.digest {
            // Somebody died who was bringing it back.
            return self.restore(late, value, revision).await;
        } else {
            // Somebody else wrote it; whoever that was comes back to it.
            return Ok(true);
        }
        self.state.tags.write(&key, &value, revision).await?;
        Ok(true)
    }

    /// Says whether a tag names only what somebody else's removal puts there for a moment, or has taken away by now.
    pub(super) async fn is_transient_tombstone(
        &self,
        repository: &Repository,
        there: Option<&Digest>,
    ) -> Result<bool, Error> {
        let Some(there) = there else {
            return Ok(false);
        };
        let is_passing = self.registry.is_tombstone(repository, there).await?
            || self
                .registry
                .head(repository, &there.into())
                .await?
                .is_none();
        Ok(is_passing)
    }

    /// Brings a settled tag back to what its entry says.
    async fn restore(
        &self,
        late: StaleChange<'_>,
        settled: TagEntry,
        revision: Option<u64>,
    ) -> Result<bool, Error> {
        let StaleChange {
            repository, tag, ..
        } = late;
        let key = self.key(repository, tag);
        let manifest = match settled.digest.parse::<Digest>() {
            Ok(digest) => match self.registry.manifest(repository, &(&digest).into()).await {
                // Whoever removed it meanwhile has changed the entry too, or will.
                Err(error) if error.is_not_found() => return Ok(true),
                found => Some(found?),
            },
            Err(_) => None,
        };
        tracing::warn!(
            image.repository = %repository, image.tag = %tag, image.digest = settled.digest,
            "a late change wrote over a newer one, which is brought back"
        );
        let mut claimed = settled.clone();
        claimed.generation += 1;
        claimed.claim = Some(Claim {
            digest: settled.digest.clone(),
            holder: late.holder.to_owned(),
            until: Some(time_to_wire(now() + self.claim)),
        });
        let revision = self.state.tags.write(&key, &claimed, revision).await?;
        crash::point("tags.taking_back");
        self.write(repository, tag, manifest.as_ref()).await?;
        crash::point("tags.restored");
        let again = TagEntry {
            generation: claimed.generation,
            ..settled
        };
        self.state.tags.write(&key, &again, Some(revision)).await?;
        // Another look, since this may have been late too.
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_is_over_or_without_end_holds_nothing_up() {
        for (seconds, is_live) in [(-1, false), (30, true), (3_600, true), (90_000, false)] {
            let entry = TagEntry {
                claim: Some(Claim {
                    until: Some(time_to_wire(now() + TimeDelta::seconds(seconds))),
                    ..Default::default()
                }),
                ..Default::default()
            };
            assert_eq!(live_claim(&entry).is_some(), is_live, "{seconds}");
        }
    }
}
