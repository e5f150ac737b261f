//! What a change left behind that came too late, or died on the way, and that nobody wants any more.

use sluice_domain::{Digest, Repository, Tag, now};
use sluice_events::time_to_wire;
use sluice_events::wire::state::{Claim, TagEntry};
use sluice_service::crash;

use super::{ROUNDS, TagWriter, refuse_foreign_claim, split, text};
use crate::error::Error;
use crate::key;

/// A change that is not wanted any more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Late<'a> {
    pub(super) repository: &'a Repository,
    pub(super) tag: &'a Tag,
    /// What the tag was to name, `None` for a removal.
    pub(super) wanted: Option<&'a Digest>,
    /// Who carries it out now.
    pub(super) holder: &'a str,
}

impl TagWriter {
    /// Takes back what a change left that is superseded, if somebody who carried it out before died or lost an answer.
    ///
    /// A lapsed claim says so. For whoever finds a change superseded before it comes to [`TagWriter::apply`].
    ///
    /// # Errors
    /// [`Error::Claimed`] while somebody else carries out the same change, or a failing bus or registry.
    pub async fn abandon(
        &self,
        repository: &Repository,
        tag: &Tag,
        wanted: Option<&Digest>,
    ) -> Result<(), Error> {
        let holder = format!("late/{}", uuid::Uuid::new_v4());
        let late = Late {
            repository,
            tag,
            wanted,
            holder: &holder,
        };
        let (value, _) = split(self.state.tags.get(&key::tag(repository, tag)).await?);
        self.abandon_if_left(late, &value).await
    }

    /// As [`TagWriter::abandon`], with the entry as it was read.
    pub(super) async fn abandon_if_left(
        &self,
        late: Late<'_>,
        value: &TagEntry,
    ) -> Result<(), Error> {
        let is_left = |claim: &Claim| claim.digest == text(late.wanted);
        if !value.claim.as_ref().is_some_and(is_left) {
            return Ok(());
        }
        refuse_foreign_claim(late.repository, late.tag, value, late.holder)?;
        self.take_back(late).await
    }

    /// Points the tag to what was settled last, where it is as the late change left it.
    ///
    /// Somebody may have settled the tag between the claim of that change and its write, or be about to. The one who is
    /// about to finds the entry changed, and looks at the tag again.
    pub(super) async fn take_back(&self, late: Late<'_>) -> Result<(), Error> {
        let Late {
            repository,
            tag,
            wanted,
            holder,
        } = late;
        let key = key::tag(repository, tag);
        let mut ours = vec![wanted.cloned()];
        for _ in 0..ROUNDS {
            let (mut value, revision) = split(self.state.tags.get(&key).await?);
            let settled: Option<Digest> = value.digest.parse().ok();
            let head = self.registry.head(repository, &tag.into()).await?;
            let at = head.map(|head| head.digest);
            let is_ours = ours.contains(&at) || self.is_half_removed(late, at.as_ref()).await?;
            let is_claimed = refuse_foreign_claim(repository, tag, &value, holder).is_err();
            let is_right = !is_ours || (at == settled && !is_claimed);
            if is_right && (is_claimed || value.claim.is_none()) {
                return Ok(());
            }
            value.generation += 1;
            if is_right {
                value.claim = None;
                value.pruning = None;
            } else if !is_claimed {
                // Until it is done, so that whoever finds this claim lapsed does it.
                value.claim = Some(Claim {
                    digest: text(wanted),
                    holder: holder.to_owned(),
                    until: Some(time_to_wire(now() + self.claim)),
                });
            }
            match self.state.tags.write(&key, &value, revision).await {
                Ok(_) if is_claimed || is_right => return Ok(()),
                Ok(_) => {}
                Err(error) if error.is_conflict() => continue,
                Err(error) => return Err(error),
            }
            crash::point("tags.taking_back");
            self.restore(repository, tag, settled.as_ref()).await?;
            crash::point("tags.restored");
            // A change that began meanwhile may have looked at the tag before, so it is looked at once more.
            ours.push(settled);
        }
        Err(Error::Restless {
            tag: format!("{repository}:{tag}"),
        })
    }

    /// Says whether a removal was interrupted after it had pointed the tag to its tombstone.
    async fn is_half_removed(&self, late: Late<'_>, at: Option<&Digest>) -> Result<bool, Error> {
        match at {
            Some(at) if late.wanted.is_none() => {
                Ok(self.registry.is_tombstone(late.repository, at).await?)
            }
            _ => Ok(false),
        }
    }

    /// Points a tag to what was settled last, or removes it where nothing was.
    async fn restore(
        &self,
        repository: &Repository,
        tag: &Tag,
        settled: Option<&Digest>,
    ) -> Result<(), Error> {
        let Some(settled) = settled else {
            return self.remove(repository, tag).await;
        };
        let manifest = match self.registry.manifest(repository, &settled.into()).await {
            Err(error) if error.is_not_found() => return self.remove(repository, tag).await,
            manifest => manifest?,
        };
        self.registry
            .put_manifest(repository, &tag.into(), &manifest)
            .await?;
        Ok(())
    }
}
