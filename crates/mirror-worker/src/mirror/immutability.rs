//! Moves in immutable repositories: the tag keeps its digest, and the refusal is published once.

use sluice_bus::Outcome;
use sluice_domain::Digest;
use sluice_events::facts::TagMoveRefused;
use sluice_state::key;

use super::task::MirrorTask;
use crate::error::Error;
use crate::handler::MirrorWorker;

impl MirrorWorker {
    /// Returns the digest that the tag keeps instead of the moved one, before anything is copied.
    ///
    /// Only for a digest that is the same upstream: a filtered or merged one can be compared only after the copy.
    pub(crate) async fn immutable_digest(
        &self,
        task: &MirrorTask,
    ) -> Result<Option<Digest>, Error> {
        let kept = self
            .tags
            .immutable_digest(&task.repository, &task.tag, &task.digest);
        let Some(kept) = kept.await? else {
            return Ok(None);
        };
        let key = key::upstream(&task.mirror, &task.tag);
        let upstream = self.state.upstream.get(&key).await?;
        let is_upstream_digest = upstream.is_some_and(|upstream| {
            let mut seen = upstream.value.first_seen.iter();
            seen.any(|seen| seen.digest == kept.as_str())
        });
        Ok(is_upstream_digest.then_some(kept))
    }

    /// Publishes that a tag does not move, once for each refused digest.
    pub(crate) async fn refuse_move(
        &self,
        task: &MirrorTask,
        kept: Digest,
    ) -> Result<Outcome, Error> {
        let key = key::tag(&task.repository, &task.tag);
        let (mut entry, revision) = self.state.tags.get_or_default(&key).await?;
        if entry.refused == task.digest.as_str() {
            return Ok(Outcome::done());
        }
        tracing::warn!(
            image.repository = %task.repository, image.tag = %task.tag, image.digest = %task.digest, %kept,
            "the tag moved upstream and keeps its digest here: its repository is immutable"
        );
        entry.repository = task.repository.to_string();
        entry.tag = task.tag.to_string();
        entry.refused = task.digest.to_string();
        let refused = TagMoveRefused {
            mirror: task.mirror.clone(),
            source: task.source.clone(),
            repository: task.repository.clone(),
            tag: task.tag.clone(),
            digest: task.digest.clone(),
            kept,
            move_number: task.move_number,
        };
        let tags = self.state.tags.clone();
        // After a conflict the next reconciliation asks again, and the same event is published once.
        let record = async move { tags.try_write(&key, &entry, revision).await.map(drop) };
        Ok(Outcome::done()
            .fact_at(refused, task.move_number.to_string())
            .then(record))
    }
}
