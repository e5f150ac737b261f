//! Image references as people type them: to the internal registry, or to any registry as in `docker pull`.

use std::fmt;
use std::str::FromStr;

use oci_client::Reference;
use sluice_domain::{Digest, InvalidName, RegistryHost, RemoteRepository, Repository, Tag};
use thiserror::Error;

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
        let invalid = |error: InvalidName| format!("{EXPECTED}: {error}");
        let tag = reference
            .tag()
            .map(str::parse)
            .transpose()
            .map_err(invalid)?;
        let digest = reference
            .digest()
            .map(str::parse)
            .transpose()
            .map_err(invalid)?;
        Ok(Self {
            repository: reference.repository().parse().map_err(invalid)?,
            tag,
            digest,
        })
    }
}

/// An image in a registry, as in `alpine:3.20` or `localhost:5000/team/app@sha256:...`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteImage {
    /// The registry and the repository in it.
    pub repository: RemoteRepository,
    /// The tag, if one is written.
    pub tag: Option<Tag>,
    /// The digest, if one is written; it decides what the image is.
    pub digest: Option<Digest>,
}

/// A reference that cannot be read.
#[derive(Debug, Error)]
#[error(
    "`{text}` is not an image; write it as in `alpine:3.20`, `registry.example:5000/team/app:1.0` or `ghcr.io/team/app@sha256:...`"
)]
pub struct InvalidReference {
    text: String,
    source: Option<InvalidName>,
}

impl FromStr for RemoteImage {
    type Err = InvalidReference;

    fn from_str(written: &str) -> Result<Self, Self::Err> {
        let refuse = |source: Option<InvalidName>| InvalidReference {
            text: written
                .chars()
                .take(100)
                .flat_map(char::escape_default)
                .collect(),
            source,
        };
        let invalid = |error: InvalidName| refuse(Some(error));
        // skopeo and containerd are used with this prefix.
        let text = written.strip_prefix("docker://").unwrap_or(written);
        let (text, digest) = match text.split_once('@') {
            Some((text, digest)) => (text, Some(digest.parse().map_err(invalid)?)),
            None => (text, None),
        };
        let (path, tag) = match text.rsplit_once(':') {
            // What follows the last colon is a port where a path goes on behind it.
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag.parse().map_err(invalid)?)),
            _ => (text, None),
        };
        if path.is_empty() {
            return Err(refuse(None));
        }
        Ok(Self {
            repository: repository(path).map_err(invalid)?,
            tag,
            digest,
        })
    }
}

/// Completes a name as Docker does.
fn repository(path: &str) -> Result<RemoteRepository, InvalidName> {
    match path.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => path.parse(),
        _ => format!("{}/{path}", RegistryHost::DOCKER_HUB).parse(),
    }
}

impl fmt::Display for RemoteImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repository.fmt(f)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest
            .as_ref()
            .map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::endpoint::Endpoint;

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

    #[test]
    fn references_are_completed_as_docker_does() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (written, meant) in [
            ("alpine", "docker.io/library/alpine"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("team/app:1", "docker.io/team/app:1"),
            ("docker.io/alpine:3", "docker.io/library/alpine:3"),
            ("index.docker.io/library/alpine", "docker.io/library/alpine"),
            ("docker://quay.io/a/b:1", "quay.io/a/b:1"),
            ("localhost/x:1", "localhost/x:1"),
            ("localhost:5000/x", "localhost:5000/x"),
            ("localhost:5000/x:1", "localhost:5000/x:1"),
            ("127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000/a/b/c:v1"),
            ("[::1]:5000/a/b:v1", "[::1]:5000/a/b:v1"),
            ("[::1]:5000/a", "[::1]:5000/a"),
            ("[2001:db8::1]/a:1", "[2001:db8::1]/a:1"),
        ] {
            let read: RemoteImage = written.parse().unwrap();
            assert_eq!(read.to_string(), meant, "{written}");
        }
        let read: RemoteImage = format!("a/b:1@{digest}").parse().unwrap();
        assert_eq!(read.to_string(), format!("docker.io/a/b:1@{digest}"));
        let read: RemoteImage = format!("docker.io/library/alpine@{digest}")
            .parse()
            .unwrap();
        assert_eq!((read.tag, read.digest.is_some()), (None, true));
    }

    #[test]
    fn what_is_no_image_is_refused_with_an_example() {
        for bad in [
            "",
            ":1",
            "Alpine",
            "a:b:c",
            "a@sha256:0",
            "a b",
            "https://registry.example/a",
            "localhost:5000/",
            "a/../b",
        ] {
            let error = bad.parse::<RemoteImage>().unwrap_err();
            assert!(error.to_string().contains("alpine:3.20"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn an_accepted_reference_is_printed_as_it_is_read_and_stays_under_its_registry(
            text in prop_oneof![
                "\\PC{0,40}",
                "([a-z0-9.:_/@%?#\\\\-]|\\.\\.|sha256:|docker://){0,12}",
                "[a-z0-9.-]{1,9}(:[0-9]{1,5})?(/[a-z0-9._-]{1,6}){0,3}(:[A-Za-z0-9._-]{1,9})?(@sha256:[0-9a-f]{64})?",
            ],
        ) {
            if let Ok(image) = text.parse::<RemoteImage>() {
                let again = image.to_string().parse::<RemoteImage>().ok();
                prop_assert_eq!(again.as_ref(), Some(&image));
                under(&image.repository.host, &image.repository.repository, image.tag.as_ref())?;
            }
            if let Ok(image) = text.parse::<ImageReference>() {
                let host = "registry.example".parse().unwrap();
                under(&host, &image.repository, image.tag.as_ref())?;
            }
        }
    }

    /// Asserts that the URL of a manifest is on the host and under the repository of its reference.
    fn under(
        host: &RegistryHost,
        repository: &Repository,
        tag: Option<&Tag>,
    ) -> Result<(), TestCaseError> {
        // A host that looks like an address and is none makes no endpoint.
        let Ok(Endpoint { base, .. }) = Endpoint::of(host, false) else {
            return Ok(());
        };
        let name = host.as_str().split(':').next().unwrap_or_default();
        let is_name = name
            .rsplit('.')
            .next()
            .is_some_and(|last| last.starts_with(|sign: char| sign.is_ascii_alphabetic()));
        if is_name && !host.is_docker_hub() {
            prop_assert_eq!(base.host_str(), Some(name));
        }
        prop_assert_eq!(base.path(), "/");
        prop_assert!(
            base.username().is_empty() && base.password().is_none() && base.query().is_none()
        );
        let tag = tag.map_or("x", Tag::as_str);
        let path = format!("/v2/{repository}/manifests/{tag}");
        let url = base
            .join(&path)
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        prop_assert_eq!(url.path(), path);
        prop_assert!(
            url.origin() == base.origin() && url.query().is_none() && url.fragment().is_none()
        );
        Ok(())
    }
}
