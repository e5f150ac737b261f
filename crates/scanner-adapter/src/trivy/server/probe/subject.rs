//! The bills of materials that show whether a database has advisories for a distribution or an ecosystem. Pure.

use serde_json::{Value, json};

use crate::trivy::database::supported_distributions::package_format;
use crate::trivy::database::supported_ecosystems::ecosystem;

/// Source packages of which every distribution has a few, with vulnerabilities in their oldest versions.
const PACKAGES: [&str; 36] = [
    "apk-tools",
    "bash",
    "binutils",
    "busybox",
    "bzip2",
    "coreutils",
    "curl",
    "dbus",
    "expat",
    "git",
    "glib2",
    "glib2.0",
    "glibc",
    "gnupg2",
    "gnutls",
    "gnutls28",
    "gzip",
    "kernel",
    "krb5",
    "libxml2",
    "linux",
    "musl",
    "ncurses",
    "nss",
    "openldap",
    "openssh",
    "openssl",
    "perl",
    "python3",
    "rpm",
    "shadow",
    "sqlite3",
    "sudo",
    "systemd",
    "util-linux",
    "zlib",
];

/// Packages of each ecosystem (as in [`ecosystem`]), in versions with well-known vulnerabilities.
const ECOSYSTEMS: [(&str, &[&str]); 14] = [
    (
        "bitnami",
        &[
            "pkg:bitnami/wordpress@5.0.0",
            "pkg:bitnami/postgresql@11.0.0",
            "pkg:bitnami/redis@6.0.0",
        ],
    ),
    (
        "cargo",
        &[
            "pkg:cargo/openssl@0.10.0",
            "pkg:cargo/time@0.1.40",
            "pkg:cargo/smallvec@0.6.0",
            "pkg:cargo/hyper@0.12.0",
        ],
    ),
    (
        "cocoapods",
        &[
            "pkg:cocoapods/AFNetworking@2.5.0",
            "pkg:cocoapods/SDWebImage@1.0.0",
            "pkg:cocoapods/libwebp@1.0.0",
        ],
    ),
    (
        "composer",
        &[
            "pkg:composer/guzzlehttp/guzzle@6.0.0",
            "pkg:composer/twig/twig@1.0.0",
            "pkg:composer/symfony/http-foundation@4.0.0",
        ],
    ),
    (
        "conan",
        &[
            "pkg:conan/openssl@1.1.1a",
            "pkg:conan/zlib@1.2.11",
            "pkg:conan/libcurl@7.60.0",
        ],
    ),
    (
        "erlang",
        &[
            "pkg:hex/plug@1.0.0",
            "pkg:hex/phoenix@1.0.0",
            "pkg:hex/hackney@1.0.0",
        ],
    ),
    (
        "go",
        &[
            "pkg:golang/golang.org/x/net@v0.0.1",
            "pkg:golang/golang.org/x/text@v0.3.0",
            "pkg:golang/golang.org/x/crypto@v0.0.1",
            "pkg:golang/github.com/gin-gonic/gin@v1.5.0",
        ],
    ),
    (
        "maven",
        &[
            "pkg:maven/org.apache.logging.log4j/log4j-core@2.14.1",
            "pkg:maven/commons-collections/commons-collections@3.2.1",
            "pkg:maven/com.fasterxml.jackson.core/jackson-databind@2.9.0",
        ],
    ),
    (
        "npm",
        &[
            "pkg:npm/lodash@4.17.4",
            "pkg:npm/minimist@1.2.0",
            "pkg:npm/jquery@1.8.0",
        ],
    ),
    (
        "nuget",
        &[
            "pkg:nuget/Newtonsoft.Json@12.0.1",
            "pkg:nuget/log4net@2.0.5",
            "pkg:nuget/System.Text.Encodings.Web@4.5.0",
        ],
    ),
    (
        "pip",
        &[
            "pkg:pypi/django@2.2",
            "pkg:pypi/jinja2@2.10",
            "pkg:pypi/pyyaml@5.1",
        ],
    ),
    (
        "pub",
        &[
            "pkg:pub/http@0.12.0",
            "pkg:pub/dio@4.0.0",
            "pkg:pub/archive@3.0.0",
        ],
    ),
    (
        "rubygems",
        &[
            "pkg:gem/rack@1.0.0",
            "pkg:gem/nokogiri@1.5.0",
            "pkg:gem/rails@4.0.0",
        ],
    ),
    (
        "swift",
        &[
            "pkg:swift/github.com/apple/swift-nio-http2@1.0.0",
            "pkg:swift/github.com/vapor/vapor@4.0.0",
            "pkg:swift/github.com/apple/swift-nio@2.0.0",
        ],
    ),
];

/// A part of a database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// A version of a distribution, as Trivy names it.
    Distribution { family: String, version: String },
    /// An ecosystem of a language.
    Ecosystem(&'static str),
}

impl Subject {
    /// Returns the bill of materials of packages that every database has advisories for, if there is one.
    pub(crate) fn sbom(&self) -> Option<Value> {
        let mut components = Vec::new();
        match self {
            Self::Ecosystem(ecosystem) => {
                let (_, packages) = ECOSYSTEMS.iter().find(|(name, _)| name == ecosystem)?;
                for package in *packages {
                    let (name, version) = package.rsplit_once('@')?;
                    let name = name.split_once('/')?.1;
                    components.push(json!({
                        "bom-ref": package, "type": "library", "name": name, "version": version, "purl": package,
                    }));
                }
            }
            Self::Distribution { family, version } => {
                let format = package_format(family)?;
                let (source, release) = if format.starts_with("apk/") {
                    ("0.0.1-r0", None)
                } else {
                    ("0.0.1", Some("0"))
                };
                let full =
                    release.map_or(source.to_owned(), |release| format!("{source}-{release}"));
                components.push(json!({
                    "bom-ref": "os", "type": "operating-system", "name": family, "version": version,
                    "properties": [
                        { "name": "aquasecurity:trivy:Class", "value": "os-pkgs" },
                        { "name": "aquasecurity:trivy:Type", "value": family },
                    ],
                }));
                for name in PACKAGES {
                    let mut properties = vec![
                        json!({ "name": "aquasecurity:trivy:PkgType", "value": family }),
                        json!({ "name": "aquasecurity:trivy:SrcName", "value": name }),
                        json!({ "name": "aquasecurity:trivy:SrcVersion", "value": source }),
                    ];
                    properties.extend(release.map(
                        |release| json!({ "name": "aquasecurity:trivy:SrcRelease", "value": release }),
                    ));
                    components.push(json!({
                        "bom-ref": name, "type": "library", "name": name, "version": full,
                        "purl": format!("pkg:{format}/{name}@{full}?arch=x86_64"), "properties": properties,
                    }));
                }
            }
        }
        let ids: Vec<Value> = components
            .iter()
            .map(|one| one["bom-ref"].clone())
            .collect();
        let (first, rest) = ids.split_first()?;
        let dependencies = match self {
            Self::Ecosystem(_) => json!([{ "ref": "probe", "dependsOn": ids }]),
            Self::Distribution { .. } => {
                json!([{ "ref": "probe", "dependsOn": [first] }, { "ref": first, "dependsOn": rest }])
            }
        };
        Some(json!({
            "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
            "metadata": { "component": { "bom-ref": "probe", "type": "container", "name": "probe" } },
            "components": components, "dependencies": dependencies,
        }))
    }

    /// Says whether packages of a kind belong to this part.
    pub(crate) fn matches(&self, kind: &str) -> bool {
        match self {
            Self::Distribution { family, .. } => family == kind,
            Self::Ecosystem(name) => ecosystem(kind) == Some(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ecosystem_that_can_be_covered_can_be_probed() {
        for kind in [
            "jar",
            "gobinary",
            "node-pkg",
            "python-pkg",
            "hex",
            "bitnami",
            "conan",
        ] {
            let ecosystem = ecosystem(kind).unwrap();
            assert!(Subject::Ecosystem(ecosystem).sbom().is_some(), "{kind}");
        }
        for (ecosystem, _) in ECOSYSTEMS {
            assert!(
                Subject::Ecosystem(ecosystem).sbom().is_some(),
                "{ecosystem}"
            );
        }
    }

    #[test]
    fn a_distribution_that_cannot_be_probed_is_not_covered() {
        for family in ["fedora", "opensuse", "plan99", ""] {
            let subject = Subject::Distribution {
                family: family.to_owned(),
                version: "1".to_owned(),
            };
            assert_eq!(subject.sbom(), None, "{family}");
        }
    }

    #[test]
    fn a_finding_counts_for_its_own_subject_only() {
        let npm = Subject::Ecosystem("npm");
        assert!(npm.matches("node-pkg") && !npm.matches("python-pkg") && !npm.matches("debian"));
        let debian = Subject::Distribution {
            family: "debian".to_owned(),
            version: "12".to_owned(),
        };
        assert!(debian.matches("debian") && !debian.matches("ubuntu"));
    }
}
