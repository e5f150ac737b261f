//! What the database of a server elsewhere covers. Its buckets cannot be read, so the server is asked: by a bill of
//! materials of packages that every database of a system or ecosystem has advisories for, in their oldest versions.
//!
//! A server that finds nothing in it covers nothing of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::distributions;
use crate::failure::{Failed, Kind};
use crate::report::{Report, Summary};
use crate::server::Server;
use crate::trivy::Trivy;

/// How long the matching may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Source packages of which every distribution has a few, and had vulnerabilities in them.
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

/// Packages of each ecosystem (as in [`distributions::ecosystem`]), in versions with well-known vulnerabilities.
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

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    /// A version of an operating system, as Trivy names it.
    System { family: String, version: String },
    /// An ecosystem.
    Ecosystem(&'static str),
}

/// The answers of one server with one database.
#[derive(Debug, Default)]
pub(crate) struct Probes(Mutex<BTreeMap<Subject, bool>>);

impl Probes {
    /// Returns what the database of the server knows nothing of in an image, in words.
    ///
    /// # Errors
    /// A server that fails, or that has another database by now.
    pub(crate) async fn unknown(
        &self,
        server: &Server,
        trivy: &Trivy,
        work: &Path,
        summary: &Summary,
    ) -> Result<Option<String>, Failed> {
        if !summary.family.is_empty() {
            let subject = Subject::System {
                family: summary.family.clone(),
                version: summary.version.clone(),
            };
            if !self.covers(server, trivy, work, subject).await? {
                return Ok(Some(format!("`{}`", summary.os)));
            }
        }
        for kind in &summary.languages {
            // A kind that no database is asked for is not what is missing in this one.
            let Some(ecosystem) = distributions::ecosystem(kind) else {
                continue;
            };
            let subject = Subject::Ecosystem(ecosystem);
            if !self.covers(server, trivy, work, subject).await? {
                return Ok(Some(format!("packages of the kind `{kind}`")));
            }
        }
        Ok(None)
    }

    async fn covers(
        &self,
        server: &Server,
        trivy: &Trivy,
        work: &Path,
        subject: Subject,
    ) -> Result<bool, Failed> {
        // Held until the answer is there: who asks for the same waits for it.
        let mut answers = self.0.lock().await;
        if let Some(covers) = answers.get(&subject) {
            return Ok(*covers);
        }
        let covers = ask(server, trivy, work, &subject).await?;
        // The answer is that of the database that was checked.
        server.confirm().await?;
        tracing::info!(?subject, covers, "probed what the server's database covers");
        answers.insert(subject, covers);
        Ok(covers)
    }
}

async fn ask(
    server: &Server,
    trivy: &Trivy,
    work: &Path,
    subject: &Subject,
) -> Result<bool, Failed> {
    let Some(sbom) = sbom(subject) else {
        return Ok(false);
    };
    let broken = |error: std::io::Error| Failed::new(Kind::Unknown, error.to_string());
    let folder = tempfile::tempdir_in(work).map_err(broken)?;
    let file = folder.path().join("probe.cdx.json");
    let report = folder.path().join("report.json");
    tokio::fs::write(&file, sbom.to_string())
        .await
        .map_err(broken)?;
    server
        .match_sbom(trivy, folder.path(), &file, &report, LIMIT)
        .await?;
    let bytes = tokio::fs::read(&report).await.map_err(broken)?;
    let report =
        Report::read(&bytes).map_err(|error| Failed::new(Kind::ServerFailed, error.to_string()))?;
    Ok(report.vulnerabilities().any(|(kind, _)| subject.is(kind)))
}

impl Subject {
    /// Says whether a finding in packages of this kind is one of this subject.
    fn is(&self, kind: &str) -> bool {
        match self {
            Self::System { family, .. } => family == kind,
            Self::Ecosystem(ecosystem) => distributions::ecosystem(kind) == Some(ecosystem),
        }
    }
}

/// Returns the bill of materials that asks for a subject; there is none for what cannot be asked for.
fn sbom(subject: &Subject) -> Option<Value> {
    let mut components = Vec::new();
    match subject {
        Subject::Ecosystem(ecosystem) => {
            let (_, packages) = ECOSYSTEMS.iter().find(|(name, _)| name == ecosystem)?;
            for package in *packages {
                let (name, version) = package.rsplit_once('@')?;
                let name = name.split_once('/')?.1;
                components.push(json!({
                    "bom-ref": package, "type": "library", "name": name, "version": version, "purl": package,
                }));
            }
        }
        Subject::System { family, version } => {
            let format = distributions::package_format(family)?;
            let (source, release) = if format.starts_with("apk/") {
                ("0.0.1-r0", None)
            } else {
                ("0.0.1", Some("0"))
            };
            let full = release.map_or(source.to_owned(), |release| format!("{source}-{release}"));
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
    let dependencies = match subject {
        Subject::Ecosystem(_) => json!([{ "ref": "probe", "dependsOn": ids }]),
        Subject::System { .. } => {
            json!([{ "ref": "probe", "dependsOn": [first] }, { "ref": first, "dependsOn": rest }])
        }
    };
    Some(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": { "component": { "bom-ref": "probe", "type": "container", "name": "probe" } },
        "components": components, "dependencies": dependencies,
    }))
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
            let ecosystem = distributions::ecosystem(kind).unwrap();
            assert!(sbom(&Subject::Ecosystem(ecosystem)).is_some(), "{kind}");
        }
        for (ecosystem, _) in ECOSYSTEMS {
            assert!(
                sbom(&Subject::Ecosystem(ecosystem)).is_some(),
                "{ecosystem}"
            );
        }
    }

    #[test]
    fn a_system_that_cannot_be_asked_for_is_not_covered() {
        for family in ["fedora", "opensuse", "plan99", ""] {
            let subject = Subject::System {
                family: family.to_owned(),
                version: "1".to_owned(),
            };
            assert_eq!(sbom(&subject), None, "{family}");
        }
    }

    #[test]
    fn a_finding_counts_for_its_own_subject_only() {
        let npm = Subject::Ecosystem("npm");
        assert!(npm.is("node-pkg") && !npm.is("python-pkg") && !npm.is("debian"));
        let debian = Subject::System {
            family: "debian".to_owned(),
            version: "12".to_owned(),
        };
        assert!(debian.is("debian") && !debian.is("ubuntu"));
    }
}
