//! Tags that are named after the manifest to which their content belongs: signatures, attestations, SBOMs.
//!
//! `sha256-<hex>` is where referrers are listed for registries without an API for them (OCI distribution specification
//! 1.1); with `.sig`, `.att` or `.sbom` it is where cosign puts what it makes.

use crate::name::Tag;
use crate::name::digest::Digest;

/// What the name of such a tag ends with.
const KINDS: [&str; 4] = ["", ".sig", ".att", ".sbom"];

impl Tag {
    /// How many levels of attachments are followed: those of an image, and those of its attachments.
    pub const ATTACHMENT_DEPTH: usize = 2;

    /// Returns the manifest that the tag is named after, if it names attachments of it rather than an image.
    #[must_use]
    pub fn attached_to(&self) -> Option<Digest> {
        let rest = self.as_str().strip_prefix("sha256-")?;
        let hex = KINDS
            .iter()
            .rev()
            .find_map(|kind| rest.strip_suffix(kind))?;
        format!("sha256:{hex}").parse().ok()
    }

    /// Returns whether the tag names a list of referrers.
    #[must_use]
    pub fn is_list(&self) -> bool {
        self.attached_to().is_some() && !self.as_str().contains('.')
    }

    /// Returns the tags of everything that may be attached to a manifest.
    pub fn attachments_of(digest: &Digest) -> impl Iterator<Item = Self> + use<> {
        let hex = digest.as_str().replace(':', "-");
        KINDS
            .iter()
            .filter_map(move |kind| format!("{hex}{kind}").parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_an_attachment_only_with_a_whole_digest_and_a_known_ending() {
        let hex = "0a".repeat(32);
        let digest: Digest = format!("sha256:{hex}").parse().unwrap();
        let tags: Vec<Tag> = Tag::attachments_of(&digest).collect();
        assert_eq!(tags.len(), 4);
        for tag in tags {
            assert_eq!(tag.attached_to(), Some(digest.clone()), "{tag}");
            assert_eq!(tag.is_list(), !tag.as_str().contains('.'), "{tag}");
        }
        for other in [
            format!("sha256-{hex}.zip"),
            format!("sha256-{hex}0"),
            format!("sha256-{}", "0A".repeat(32)),
            format!("sha512-{hex}"),
            "sha256-".to_owned(),
            "sha256-.sig".to_owned(),
            hex,
        ] {
            let tag: Tag = other.parse().unwrap();
            assert_eq!(tag.attached_to(), None, "{tag}");
        }
    }
}
