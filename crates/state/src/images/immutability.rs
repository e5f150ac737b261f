//! Immutable repositories: a tag that names an image never comes to name another one.

use sluice_domain::{Digest, Repository, Tag};
use sluice_events::wire::state::TagEntry;

use crate::error::Error;
use crate::images::tag_writer::TagWriter;
use crate::key;

impl TagWriter {
    /// Moves the tags of immutable repositories too, to restore a tag that an unauthorised image has taken.
    #[must_use]
    pub const fn overriding_immutability(mut self) -> Self {
        self.overrides_immutability = true;
        self
    }

    /// Returns the digest that a tag of an immutable repository keeps, if that is not the wanted one.
    ///
    /// For a caller that would copy much before it comes to [`TagWriter::apply`], which decides.
    pub async fn immutable_digest(
        &self,
        repository: &Repository,
        tag: &Tag,
        wanted: &Digest,
    ) -> Result<Option<Digest>, Error> {
        if !self.is_immutable(repository) || tag.attached_to().is_some() {
            return Ok(None);
        }
        let (entry, _) = self
            .state
            .tags
            .get_or_default(&key::tag(repository, tag))
            .await?;
        let head = self.registry.head(repository, &tag.into()).await?;
        let current = head.map(|head| head.digest);
        Ok(current.filter(|current| self.is_move_forbidden(repository, &entry, wanted, current)))
    }

    /// Says whether a tag must not move from its current digest to the wanted one.
    pub(super) fn is_move_forbidden(
        &self,
        repository: &Repository,
        entry: &TagEntry,
        wanted: &Digest,
        current: &Digest,
    ) -> bool {
        let may_move = self.overrides_immutability
            || current == wanted
            || restores_recorded_digest(entry, wanted);
        !may_move && self.is_immutable(repository)
    }

    /// A remote registry protects its own tags.
    fn is_immutable(&self, repository: &Repository) -> bool {
        self.remote.is_none() && self.catalog.current().is_immutable(repository)
    }
}

/// Says whether a change restores the recorded digest, over a push that no stage made.
fn restores_recorded_digest(entry: &TagEntry, wanted: &Digest) -> bool {
    let is_foreign_push = entry.mirror.is_empty() && entry.promoted_from.is_none();
    entry.digest == wanted.as_str() || (is_foreign_push && entry.previous == wanted.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_digest_recorded_before_an_unauthorised_push_is_restored() {
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
            assert_eq!(
                restores_recorded_digest(&entry, &wanted),
                expected,
                "{entry:?}"
            );
        }
    }
}
