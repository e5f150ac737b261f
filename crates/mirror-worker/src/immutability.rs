//! Moves into immutable repositories: the tag keeps what it names, and that is told once.

use sluice_bus::Outcome;
use sluice_domain::Digest;
use sluice_events::facts::{TagMoveRefused, UpstreamTagMoved};
use sluice_state::key;

use crate::mirror::{Error, MirrorWorker};

impl MirrorWorker {
    /// Returns what the tag keeps instead of what it moved to, before anything is copied for it.
    ///
    /// Only where that came from upstream as it is: where it did not, what a move would bring is known once it is there.
    pub(crate) async fn keeps(&self, fact: &UpstreamTagMoved) -> Result<Option<Digest>, Error> {
        let kept = self.tags.kept(&fact.repository, &fact.tag, &fact.digest);
        let Some(kept) = kept.await? else {
            return Ok(None);
        };
        let key = key::upstream(&fact.mirror, &fact.tag);
        let upstream = self.state.upstream.get(&key).await?;
        let came_as_it_is = upstream.is_some_and(|upstream| {
            let mut seen = upstream.value.first_seen.iter();
            seen.any(|seen| seen.digest == kept.as_str())
        });
        Ok(came_as_it_is.then_some(kept))
    }

    /// Tells that a tag does not move, once for what it was to move to.
    pub(crate) async fn refused(
        &self,
        fact: &UpstreamTagMoved,
        kept: Digest,
    ) -> Result<Outcome, Error> {
        let key = key::tag(&fact.repository, &fact.tag);
        let entry = self.state.tags.get(&key).await?;
        let (mut entry, revision) = entry.map_or_else(Default::default, |entry| {
            (entry.value, Some(entry.revision))
        });
        if entry.refused == fact.digest.as_str() {
            return Ok(Outcome::done());
        }
        tracing::warn!(
            image.repository = %fact.repository, image.tag = %fact.tag, image.digest = %fact.digest, %kept,
            "the tag moved upstream, and keeps what it names here: its repository is immutable"
        );
        entry.repository = fact.repository.to_string();
        entry.tag = fact.tag.to_string();
        entry.refused = fact.digest.to_string();
        let refusal = TagMoveRefused {
            mirror: fact.mirror.clone(),
            source: fact.source.clone(),
            repository: fact.repository.clone(),
            tag: fact.tag.clone(),
            digest: fact.digest.clone(),
            kept,
            move_number: fact.move_number,
        };
        let tags = self.state.tags.clone();
        let record = async move {
            match tags.write(&key, &entry, revision).await {
                Ok(_) => Ok(()),
                // Somebody is at work on the tag; the next search asks again, and the same is told once.
                Err(error) if error.is_conflict() => Ok(()),
                Err(error) => Err(error),
            }
        };
        let occurrence = fact.move_number.to_string();
        Ok(Outcome::done().fact_at(refusal, occurrence).then(record))
    }
}
