//! An evaluation: the stored decision of one policy on one image, with what it was made of.

use sluice_domain::resources::Recall;
use sluice_domain::{Digest, ResourceName, Tag, Target};
use sluice_events::wire::state::{Decision, FormerTarget, Promotion};
use sluice_state::{Provenance, State};

use super::policies::Policy;
use super::scanned_image::ScannedImage;
use super::subject::Subject;
use crate::error::Error;
use crate::settings::STAGE;

/// A decision as it is stored, with what it was made of.
#[derive(Debug)]
pub(crate) struct Evaluation<'a> {
    /// The policy; `None` if it does not decide on this image any more.
    pub(crate) policy: Option<&'a Policy>,
    pub(crate) name: ResourceName,
    /// What becomes of an image that was promoted and does not pass any more.
    pub(crate) recall: Recall,
    pub(crate) subject: &'a Subject,
    pub(crate) image: &'a ScannedImage,
    pub(crate) key: String,
    pub(crate) decision: Decision,
    pub(crate) revision: u64,
    /// Whether this is about a target to which the policy led before it was changed.
    pub(crate) is_former: bool,
}

impl<'a> Evaluation<'a> {
    /// Returns every manifest of the image, the top first.
    pub(crate) fn manifests(&self) -> &'a [Digest] {
        &self.image.manifests
    }

    /// Returns the target and the tag in it.
    pub(crate) fn target(&self) -> Result<(Target, Tag), Error> {
        let damaged = || Error::Damaged {
            object: format!("decision `{}`", self.key),
        };
        let target = Target::from_stored(&self.decision.target).map_err(|_| damaged())?;
        let tag = self.decision.target_tag.parse().map_err(|_| damaged())?;
        Ok((target, tag))
    }

    /// Returns where the image came from, as a tag's entry keeps it.
    pub(crate) fn provenance(&self) -> Provenance {
        Provenance {
            by: STAGE.to_owned(),
            promotion: Some(Promotion {
                policy: self.decision.policy.clone(),
                repository: self.decision.repository.clone(),
                tag: self.decision.tag.clone(),
                decided_at: self.decision.decided_at,
            }),
            ..Provenance::default()
        }
    }

    /// Says whether the decision is still stored at the revision of this evaluation.
    pub(crate) async fn is_stored(&self, state: &State) -> Result<bool, Error> {
        let stored = state.decisions.get(&self.key).await?;
        Ok(stored.is_some_and(|stored| stored.revision == self.revision))
    }

    /// Returns the same image at a former target.
    pub(crate) fn at_former(&self, former: &FormerTarget) -> Self {
        Self {
            policy: self.policy,
            name: self.name.clone(),
            recall: self.recall,
            subject: self.subject,
            image: self.image,
            key: self.key.clone(),
            decision: Decision {
                target: former.target.clone(),
                target_tag: former.target_tag.clone(),
                promoted_at: former.promoted_at,
                flagged: former.flagged.clone(),
                ..self.decision.clone()
            },
            revision: self.revision,
            is_former: true,
        }
    }
}
