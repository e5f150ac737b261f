//! Names and references, as people, registries and messages write them.
#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use sluice_domain::{
    AccountName, Digest, DurationText, Platform, RegistryHost, RemoteRepository, Repository,
    ResourceName, Tag,
};
use sluice_registry::{Endpoint, ImageReference, RemoteImage};

/// What is accepted is printed as something that is read as the same.
fn round_trip<T: FromStr + Display + PartialEq + Debug>(text: &str) -> Option<T> {
    let read: T = text.parse().ok()?;
    let again = read.to_string().parse::<T>().ok();
    assert_eq!(again.as_ref(), Some(&read));
    Some(read)
}

/// What is asked for by these names lies where they say.
fn under(host: &RegistryHost, repository: &Repository, tag: &str) {
    let Ok(Endpoint { base, .. }) = Endpoint::of(host, false) else {
        return;
    };
    assert!(base.path() == "/" && base.query().is_none() && base.username().is_empty());
    let path = format!("/v2/{repository}/manifests/{tag}");
    let url = base.join(&path).unwrap();
    assert_eq!(url.path(), path);
    assert!(url.origin() == base.origin() && url.query().is_none() && url.fragment().is_none());
}

fuzz_target!(|text: &str| {
    let host: RegistryHost = "registry.example:5000".parse().unwrap();
    if let Some(repository) = round_trip::<Repository>(text) {
        under(&host, &repository, "x");
    }
    if let Some(tag) = round_trip::<Tag>(text) {
        under(&host, &"a/b".parse().unwrap(), tag.as_str());
    }
    if let Some(remote) = round_trip::<RemoteRepository>(text) {
        under(&remote.host, &remote.repository, "x");
    }
    if let Some(image) = round_trip::<RemoteImage>(text) {
        let tag = image.tag.as_ref().map_or("x", |tag| tag.as_str());
        under(&image.repository.host, &image.repository.repository, tag);
    }
    if let Ok(image) = text.parse::<ImageReference>() {
        under(
            &host,
            &image.repository,
            image.tag.as_ref().map_or("x", |tag| tag.as_str()),
        );
    }
    if let Some(digest) = round_trip::<Digest>(text) {
        assert!(digest.as_str().len() == 71 && digest.as_str().is_ascii());
    }
    round_trip::<RegistryHost>(text);
    round_trip::<ResourceName>(text);
    round_trip::<AccountName>(text);
    round_trip::<Platform>(text);
    let _ = text.parse::<DurationText>();
});
