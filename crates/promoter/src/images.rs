//! What images consist of, as far as it decides what is promoted and what is taken back: from their bytes, or from what
//! was decided on them. Entries of `images` are written by others too, and are not read for it.

use std::collections::BTreeSet;

use sluice_domain::{Digest, Repository};
use sluice_events::wire::state::{
    Decision, DecisionInput, DecisionOutcome, ImageChild, ImageEntry, TagEntry,
};
use sluice_state::key;

use crate::facts::decision_input;
use crate::handler::{Error, Promoter};
use crate::promote::key_of_holder;
use crate::target_endpoint::TargetEndpoint;

impl Promoter {
    /// Returns what an image consists of, by its bytes in the first of some repositories that has it.
    ///
    /// Where none has it, nothing can be promoted, and what is left of it somewhere is found by what decisions knew of it.
    pub(crate) async fn image(
        &self,
        digest: &Digest,
        places: Vec<Repository>,
    ) -> Result<Option<ImageEntry>, Error> {
        let mut asked = BTreeSet::new();
        for place in places {
            if !asked.insert(place.clone()) {
                continue;
            }
            match self.images.read(&self.registry, &place, digest).await {
                Ok(image) => return Ok(Some(image)),
                Err(sluice_state::Error::Registry(error)) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.decided_image(digest).await
    }

    /// Returns the manifests below an image; one that is nowhere reaches what decisions knew of it.
    pub(crate) async fn reached(
        &self,
        digest: &Digest,
        endpoint: &TargetEndpoint,
    ) -> Result<BTreeSet<Digest>, Error> {
        let read = self
            .images
            .read(&endpoint.registry, endpoint.repository(), digest);
        let image = match read.await {
            Ok(image) => Some(image),
            Err(sluice_state::Error::Registry(error)) if error.is_not_found() => {
                self.decided_image(digest).await?
            }
            Err(error) => return Err(error.into()),
        };
        let children = image.into_iter().flat_map(|image| image.children);
        Ok(children
            .filter_map(|child| child.digest.parse().ok())
            .collect())
    }

    /// Returns what the last decision on a digest knew of its images.
    async fn decided_image(&self, digest: &Digest) -> Result<Option<ImageEntry>, Error> {
        let decisions = self
            .state
            .decisions
            .list(&key::decisions_about(digest))
            .await?;
        let decided = |decision: &Decision| decision.decided_at.map(|at| (at.seconds, at.nanos));
        let last = decisions
            .into_iter()
            .map(|entry| entry.value)
            .filter(|decision| !decision.inputs.is_empty())
            .max_by_key(decided);
        let child = |input: DecisionInput| ImageChild {
            platform: input.platform,
            digest: input.digest,
            labels_omitted: true,
            ..Default::default()
        };
        Ok(last.map(|decision| ImageEntry {
            digest: digest.to_string(),
            children: decision.inputs.into_iter().map(child).collect(),
            ..Default::default()
        }))
    }

    /// Says whether a decision that allows an image rests on other verdicts than there are now: what told of a newer one was
    /// lost.
    pub(crate) async fn rests_on_older_verdicts(&self, decision: &Decision) -> Result<bool, Error> {
        if decision.outcome() != DecisionOutcome::Allow || decision.promoted_at.is_none() {
            return Ok(false);
        }
        for input in &decision.inputs {
            let Ok(digest) = input.digest.parse() else {
                continue;
            };
            let verdict = self.state.verdicts.get(&key::verdict(&digest)).await?;
            let verdict = verdict.as_ref().map(|entry| &entry.value);
            let now = DecisionInput {
                accepted: input.accepted.clone(),
                ..decision_input(&input.platform, &input.digest, verdict)
            };
            if now != *input {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Leaves out what a tag's entry says of a promotion that no decision made: others write entries too, and no policy
    /// judges what it brought itself.
    pub(crate) async fn without_forged_promotion(&self, entry: &mut TagEntry) -> Result<(), Error> {
        if entry.promoted_from.is_none() {
            return Ok(());
        }
        let decision = match key_of_holder(entry) {
            Some(key) => self.state.decisions.get(&key).await?,
            None => None,
        };
        let is_made = decision.is_some_and(|decision| decision.value.target == entry.repository);
        if !is_made {
            entry.promoted_from = None;
        }
        Ok(())
    }
}
