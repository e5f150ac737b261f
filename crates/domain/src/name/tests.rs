//! Tests of names: what they take, and that they print what they took.

use proptest::prelude::*;
use serde::de::DeserializeOwned;

use super::*;

#[test]
fn repositories_follow_the_specification() {
    for good in [
        "alpine",
        "library/alpine",
        "a/b/c",
        "a__b",
        "a.b",
        "a---b",
        "0/1",
    ] {
        assert_eq!(good.parse::<Repository>().unwrap().as_str(), good);
    }
    let long = "a".repeat(256);
    for bad in [
        "", "A", "a//b", "/a", "a/", "a..b", "a___b", "-a", "a-", "../a", "a?b", &long,
    ] {
        assert!(bad.parse::<Repository>().is_err(), "{bad}");
    }
}

#[test]
fn a_repository_splits_into_organisation_and_name() {
    let repository: Repository = "hub/team/app".parse().unwrap();
    assert_eq!(
        (repository.organisation(), repository.name()),
        (Some("hub"), "team/app")
    );
    let bare: Repository = "alpine".parse().unwrap();
    assert_eq!((bare.organisation(), bare.name()), (None, "alpine"));
}

#[test]
fn tags_and_hosts_are_checked() {
    for good in ["1.27", "v1", "_x", "a-b.c", &"a".repeat(128)] {
        assert!(good.parse::<Tag>().is_ok(), "{good}");
    }
    for bad in ["", ".a", "-a", "a b", "a/b", "a:b", "ä", &"a".repeat(129)] {
        assert!(bad.parse::<Tag>().is_err(), "{bad}");
    }
    assert_eq!(
        "Docker.IO".parse::<RegistryHost>().unwrap().as_str(),
        "docker.io"
    );
    for bad in [
        "",
        "https://a.b",
        "a:000080",
        ":5000",
        "a:99999",
        "a:b",
        "a/b",
        "user@host",
        "a..b",
        "-a.b",
    ] {
        assert!(bad.parse::<RegistryHost>().is_err(), "{bad}");
    }
}

#[test]
fn an_ipv6_address_is_a_host_in_brackets() {
    for (written, meant) in [
        ("[::1]:5000", "[::1]:5000"),
        ("[::1]", "[::1]"),
        ("[2001:DB8:0::1]:443", "[2001:db8::1]:443"),
    ] {
        assert_eq!(written.parse::<RegistryHost>().unwrap().as_str(), meant);
        let remote: RemoteRepository = format!("{written}/team/app").parse().unwrap();
        assert_eq!(remote.to_string(), format!("{meant}/team/app"));
    }
    for bad in [
        "::1",
        "[::1",
        "::1]",
        "[::1]5000",
        "[::1]:",
        "[::1]:x",
        "[]",
        "[a.b]",
        "[::1%25lo]",
        "[127.0.0.1]",
        "[[::1]]",
    ] {
        assert!(bad.parse::<RegistryHost>().is_err(), "{bad}");
    }
    let told = "::1".parse::<RegistryHost>().unwrap_err().to_string();
    assert!(told.contains("in brackets"), "{told}");
}

#[test]
fn a_remote_repository_needs_its_registry() {
    let remote: RemoteRepository = "docker.io/library/alpine".parse().unwrap();
    assert_eq!(remote.to_string(), "docker.io/library/alpine");
    for bad in ["alpine", "library/alpine", "docker.io/", "docker.io/a:1"] {
        let message = bad.parse::<RemoteRepository>().unwrap_err().to_string();
        assert!(message.contains("docker.io/library/alpine"), "{message}");
    }
}

#[test]
fn every_name_of_docker_hub_is_one_registry() {
    for name in [
        "docker.io",
        "index.docker.io",
        "registry-1.docker.io",
        "Registry.Hub.Docker.com",
    ] {
        let host: RegistryHost = name.parse().unwrap();
        assert_eq!(host.as_str(), "docker.io");
        for (written, meant) in [("alpine", "library/alpine"), ("acme/app", "acme/app")] {
            let remote: RemoteRepository = format!("{name}/{written}").parse().unwrap();
            assert_eq!(remote.to_string(), format!("docker.io/{meant}"));
        }
    }
    let other: RemoteRepository = "quay.io/alpine".parse().unwrap();
    assert_eq!(other.to_string(), "quay.io/alpine");
    for other in [
        "docker.io:5000",
        "x.docker.io",
        "auth.docker.io",
        "docker.io.example",
    ] {
        assert!(
            !other.parse::<RegistryHost>().unwrap().is_docker_hub(),
            "{other}"
        );
    }
}

#[test]
fn resource_and_account_names_are_checked() {
    for good in [
        "a",
        "hub/*",
        "clean-to-official",
        "cve-2024-0001",
        &"a".repeat(128),
    ] {
        assert!(good.parse::<ResourceName>().is_ok(), "{good}");
    }
    for bad in ["", "a b", "a:b", "ä", "a?", &"a".repeat(129)] {
        assert!(bad.parse::<ResourceName>().is_err(), "{bad}");
    }
    for good in ["ci", "0x", "mirror-worker", "a.b_c", &"a".repeat(63)] {
        assert!(good.parse::<AccountName>().is_ok(), "{good}");
    }
    for bad in ["", "-a", ".a", "A", "a/b", "a:b", &"a".repeat(64)] {
        assert!(bad.parse::<AccountName>().is_err(), "{bad}");
    }
}

#[test]
fn a_complaint_is_short_and_has_no_control_characters() {
    let message = format!("a\n\u{1b}[31m{}", "x".repeat(1_000))
        .parse::<Tag>()
        .unwrap_err()
        .to_string();
    assert!(!message.contains(char::is_control), "{message:?}");
    assert!(message.len() < 300, "{message}");
}

/// Asserts that a text of this kind is printed, and stored, as it was written.
fn round_trip<T>(text: &str) -> Result<(), TestCaseError>
where
    T: FromStr<Err = InvalidName>
        + fmt::Display
        + Serialize
        + DeserializeOwned
        + PartialEq
        + fmt::Debug,
{
    let name: T = text
        .parse()
        .map_err(|error| TestCaseError::fail(format!("{error}")))?;
    prop_assert_eq!(name.to_string(), text);
    let json = serde_json::to_string(&name).unwrap();
    prop_assert_eq!(&json, &format!("\"{text}\""));
    prop_assert_eq!(serde_json::from_str::<T>(&json).unwrap(), name);
    Ok(())
}

const HOST: &str = "[a-z0-9]{1,8}(\\.[a-z0-9]{1,8}){1,3}(:[1-9][0-9]{0,3})?";
const REPOSITORY: &str = "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}){0,3}";

proptest! {
    #[test]
    fn names_are_printed_as_they_are_written(
        host in HOST,
        repository in REPOSITORY,
        tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}",
        resource in "[A-Za-z0-9._/*-]{1,128}",
        account in "[a-z0-9][a-z0-9._-]{0,62}",
        digest in "sha256:[0-9a-f]{64}",
        platform in "[a-z0-9_.-]{1,8}/[a-z0-9_.-]{1,8}(/[a-z0-9_.-]{1,8})?",
    ) {
        round_trip::<RegistryHost>(&host)?;
        round_trip::<Repository>(&repository)?;
        round_trip::<RemoteRepository>(&format!("{host}/{repository}"))?;
        round_trip::<Tag>(&tag)?;
        round_trip::<ResourceName>(&resource)?;
        round_trip::<AccountName>(&account)?;
        round_trip::<crate::Digest>(&digest)?;
        round_trip::<crate::Platform>(&platform)?;
    }

    #[test]
    fn a_repository_is_its_organisation_and_its_name(text in REPOSITORY) {
        let repository: Repository = text.parse().unwrap();
        let parts: Vec<_> = repository.organisation().into_iter().chain([repository.name()]).collect();
        prop_assert_eq!(parts.join("/"), text);
    }

    #[test]
    fn whatever_parses_prints_the_same(text in "[a-z0-9./:_*-]{0,20}") {
        if let Ok(name) = text.parse::<Repository>() {
            prop_assert_eq!(name.to_string(), text.clone());
        }
        if let Ok(name) = text.parse::<RemoteRepository>() {
            prop_assert_eq!(name.to_string(), text.clone());
        }
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in prop_oneof![".*", "[a-z0-9:/{}*.%-]{0,80}"]) {
        drop(text.parse::<Repository>());
        drop(text.parse::<RemoteRepository>());
        drop(text.parse::<RegistryHost>());
        drop(text.parse::<Tag>());
        drop(text.parse::<ResourceName>());
        drop(text.parse::<AccountName>());
        drop(text.parse::<PackageKind>());
        drop(text.parse::<crate::Digest>());
        drop(text.parse::<crate::Platform>());
        drop(text.parse::<crate::DurationText>());
        drop(text.parse::<crate::resources::Kind>());
    }
}
