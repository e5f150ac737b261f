//! Immutable repositories: a tag that names an image never comes to name another one.

use sluice_domain::{Digest, Repository, Tag};
use sluice_events::wire::state::TagEntry;

use super::TagWriter;
use crate::error::Error;
use crate::key;

impl TagWriter {
    /// Lets it move the tags of immutable repositories too: what nobody allowed to be there is not kept.
    #[must_use]
    pub const fn reverting(mut self) -> Self {
        self.reverts = true;
        self
    }

    /// Returns what a tag of an immutable repository names and keeps, if that is not what is wanted.
    ///
    /// For whoever would have much to do before it comes to [`TagWriter::apply`], which decides.
    ///
    /// # Errors
    /// A failing bus or registry.
    pub async fn kept(
        &self,
        repository: &Repository,
        tag: &Tag,
        wanted: &Digest,
    ) -> Result<Option<Digest>, Error> {
        if !self.is_immutable(repository) || tag.attached_to().is_some() {
            return Ok(None);
        }
        let entry = self.state.tags.get(&key::tag(repository, tag)).await?;
        let entry = entry.map(|entry| entry.value).unwrap_or_default();
        let head = self.registry.head(repository, &tag.into()).await?;
        let kept = head.map(|head| head.digest);
        Ok(kept.filter(|at| self.keeps(repository, &entry, wanted, at)))
    }

    /// Says whether a tag must go on naming what it names now.
    pub(super) fn keeps(
        &self,
        repository: &Repository,
        entry: &TagEntry,
        wanted: &Digest,
        at: &Digest,
    ) -> bool {
        let may_move = self.reverts || at == wanted || brings_back(entry, wanted);
        !may_move && self.is_immutable(repository)
    }

    /// What is promoted into a remote registry is for that to guard.
    fn is_immutable(&self, repository: &Repository) -> bool {
        self.remote.is_none() && self.catalog.current().is_immutable(repository)
    }
}

/// Says whether a change brings back what was settled, over what somebody else has put there.
fn brings_back(entry: &TagEntry, wanted: &Digest) -> bool {
    let is_strange = entry.mirror.is_empty() && entry.promoted_from.is_none();
    entry.digest == wanted.as_str() || (is_strange && entry.previous == wanted.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_settled_before_a_stranger_came_is_brought_back() {
        let digest = |fill: &str| format!("sha256:{}", fill.repeat(64));
        let entry = |digest: &str, previous: &str, mirror: &str| TagEntry {
            digest: digest.to_owned(),
            previous: previous.to_owned(),
            mirror: mirror.to_owned(),
            ..Default::default()
        };
        let (a, b) = (digest("a"), digest("b"));
        let wanted = a.parse().unwrap();
        for (entry, expected) in [
            (entry(&a, "", "alpine"), true),
            (entry(&b, &a, ""), true),
            (entry(&b, &a, "alpine"), false),
            (entry(&b, "", ""), false),
            (entry("", &a, "alpine"), false),
        ] {
            assert_eq!(brings_back(&entry, &wanted), expected, "{entry:?}");
        }
    }
}
