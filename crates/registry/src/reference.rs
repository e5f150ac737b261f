//! Image references as people type them.

use std::str::FromStr;

use oci_client::Reference;
use sluice_domain::{Digest, InvalidName, Repository, Tag};

/// A repository with a tag, a digest, or both, as in `hub/app:1.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference {
    /// The repository in the internal registry.
    pub repository: Repository,
    /// The tag.
    pub tag: Option<Tag>,
    /// The digest.
    pub digest: Option<Digest>,
}

impl FromStr for ImageReference {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "expected an image such as `hub/alpine:3.20` or `hub/alpine@sha256:...`";
        // The placeholder host keeps Docker's short names from being completed to `docker.io/library/...`.
        let reference: Reference = format!("sluice.invalid/{text}")
            .parse()
            .map_err(|error| format!("{EXPECTED}: {error}"))?;
        let told = |error: InvalidName| format!("{EXPECTED}: {error}");
        let tag = reference.tag().map(str::parse).transpose().map_err(told)?;
        let digest = reference
            .digest()
            .map(str::parse)
            .transpose()
            .map_err(told)?;
        Ok(Self {
            repository: reference.repository().parse().map_err(told)?,
            tag,
            digest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_type() {
        let reference: ImageReference = "hub/alpine:3.20".parse().unwrap();
        assert_eq!(
            (
                reference.repository.as_str(),
                reference.tag.unwrap().as_str()
            ),
            ("hub/alpine", "3.20")
        );
        let digest = format!("hub/a@sha256:{}", "0".repeat(64));
        assert!(digest.parse::<ImageReference>().unwrap().digest.is_some());
        for bad in ["", "Hub/x", "hub/a:b:c", "hub/a@sha256:0"] {
            assert!(bad.parse::<ImageReference>().is_err(), "{bad}");
        }
    }
}
