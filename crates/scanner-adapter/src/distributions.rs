//! Of which operating systems and languages a database knows anything. Pure.
//!
//! An image of another one has no findings whatever is in it, and that is not the same as clean.

use std::collections::BTreeSet;

use crate::advisory_buckets::Counts;
use crate::report::Summary;

/// What is known of a database's buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Systems(BTreeSet<String>);

/// How Trivy makes the name of a system's bucket from its version.
#[derive(Debug, Clone, Copy)]
enum Bucket {
    /// `12.5` is in `12`.
    Major,
    /// `3.18.4` is in `3.18`.
    Minor,
    /// Version as it is written.
    Exact,
    /// All versions are in one.
    One,
    /// `2`, `2022` and `2023` have one each; whatever else is taken for `1`.
    Amazon,
    /// All versions are in one, and Trivy knows by itself what belongs to these four only.
    RedHat,
}

/// The families of which Trivy matches packages, with the bucket and the format of their packages in purls.
///
/// A family that is not here is not covered, whatever the database has: Trivy 0.59 to 0.74 then list its packages
/// nowhere (Fedora), or not in all versions (Bottlerocket).
const FAMILIES: [(&str, &str, Bucket, &str); 18] = [
    ("alma", "alma", Bucket::Major, "rpm/alma"),
    ("alpine", "alpine", Bucket::Minor, "apk/alpine"),
    ("amazon", "amazon linux", Bucket::Amazon, "rpm/amazon"),
    ("azurelinux", "azure linux", Bucket::Minor, "rpm/azurelinux"),
    (
        "cbl-mariner",
        "cbl-mariner",
        Bucket::Minor,
        "rpm/cbl-mariner",
    ),
    ("centos", "red hat", Bucket::RedHat, "rpm/centos"),
    ("chainguard", "chainguard", Bucket::One, "apk/chainguard"),
    ("debian", "debian", Bucket::Major, "deb/debian"),
    (
        "opensuse-leap",
        "opensuse leap",
        Bucket::Exact,
        "rpm/opensuse",
    ),
    (
        "opensuse-tumbleweed",
        "opensuse tumbleweed",
        Bucket::One,
        "rpm/opensuse",
    ),
    ("oracle", "oracle linux", Bucket::Major, "rpm/oracle"),
    ("photon", "photon os", Bucket::Exact, "rpm/photon"),
    ("redhat", "red hat", Bucket::RedHat, "rpm/redhat"),
    ("rocky", "rocky", Bucket::Major, "rpm/rocky"),
    (
        "slem",
        "suse linux enterprise micro",
        Bucket::Exact,
        "rpm/suse",
    ),
    ("sles", "suse linux enterprise", Bucket::Exact, "rpm/suse"),
    ("ubuntu", "ubuntu", Bucket::Minor, "deb/ubuntu"),
    ("wolfi", "wolfi", Bucket::One, "apk/wolfi"),
];

/// The kinds of packages that Trivy matches, with the ecosystem whose buckets it looks into (`npm::` and so on).
///
/// A kind that is not here is one that it lists and never matches, with any database.
const LANGUAGES: [(&str, &str); 34] = [
    ("bundler", "rubygems"),
    ("gemspec", "rubygems"),
    ("cargo", "cargo"),
    ("rustbinary", "cargo"),
    ("composer", "composer"),
    ("composer-vendor", "composer"),
    ("conan", "conan"),
    ("dotnet-core", "nuget"),
    ("nuget", "nuget"),
    ("nuget-config", "nuget"),
    ("packages-props", "nuget"),
    ("gobinary", "go"),
    ("gomod", "go"),
    ("gradle", "maven"),
    ("jar", "maven"),
    ("pom", "maven"),
    ("sbt", "maven"),
    ("hex", "erlang"),
    ("bun", "npm"),
    ("javascript", "npm"),
    ("node-pkg", "npm"),
    ("npm", "npm"),
    ("pnpm", "npm"),
    ("yarn", "npm"),
    ("pip", "pip"),
    ("pipenv", "pip"),
    ("poetry", "pip"),
    ("pylock", "pip"),
    ("python-pkg", "pip"),
    ("uv", "pip"),
    ("pub", "pub"),
    ("swift", "swift"),
    ("cocoapods", "cocoapods"),
    ("bitnami", "bitnami"),
];

impl Systems {
    /// Returns what the database knows nothing of in an image, in words.
    pub(crate) fn unknown(&self, summary: &Summary) -> Option<String> {
        if !summary.family.is_empty() && !self.know(&summary.family, &summary.version) {
            return Some(format!("`{}`", summary.os));
        }
        let missing = |kind: &&String| {
            ecosystem(kind).is_some_and(|ecosystem| {
                let prefix = format!("{ecosystem}::");
                !self.0.iter().any(|bucket| bucket.starts_with(&prefix))
            })
        };
        let kind = summary.languages.iter().find(missing)?;
        Some(format!("packages of the kind `{kind}`"))
    }

    /// Makes it of the buckets that have anything in them.
    pub(crate) fn of(counts: &Counts) -> Self {
        let filled = counts.iter().filter(|(_, count)| **count > 0);
        Self(filled.map(|(name, _)| name.to_lowercase()).collect())
    }

    /// Says whether the database knows anything of a system.
    fn know(&self, family: &str, version: &str) -> bool {
        let Some((_, named, bucket, _)) = FAMILIES.iter().find(|(name, ..)| *name == family) else {
            return false;
        };
        let has = |version: &str| {
            self.0
                .contains(&format!("{named} {}", version.to_lowercase()))
        };
        match bucket {
            Bucket::Major => has(&parts(version, 1)),
            Bucket::Minor => {
                let minor = parts(version, 2);
                // Packages of Alpine's development branch, which comes before its next version, have one of their own;
                // Ubuntu's may have only one for its extended maintenance.
                has(&minor)
                    || has(&format!("{minor}-esm"))
                    || (version.contains("_alpha") && has("edge"))
            }
            Bucket::Exact => has(version),
            Bucket::One => self.0.contains(*named),
            Bucket::Amazon => {
                let first = version.split([' ', '.']).next().unwrap_or_default();
                has(if ["2", "2022", "2023"].contains(&first) {
                    first
                } else {
                    "1"
                })
            }
            Bucket::RedHat => {
                let first = parts(version, 1);
                ["6", "7", "8", "9"].contains(&first.as_str()) && self.0.contains(*named)
            }
        }
    }
}

/// Returns the ecosystem in whose buckets Trivy looks for packages of a kind, unless it never looks for them.
pub(crate) fn ecosystem(kind: &str) -> Option<&'static str> {
    let found = LANGUAGES.iter().find(|(name, _)| *name == kind);
    found.map(|(_, ecosystem)| *ecosystem)
}

/// Returns the format and namespace that packages of a family have in a purl, for a family whose packages are matched.
pub(crate) fn package_format(family: &str) -> Option<&'static str> {
    let found = FAMILIES.iter().find(|(name, ..)| *name == family);
    found.map(|(.., format)| *format)
}

/// Returns the first numbers of a version.
fn parts(version: &str, count: usize) -> String {
    version.split('.').take(count).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_known_by_the_buckets_that_trivy_looks_into() {
        let buckets = [
            "alma 9",
            "alpine 3.18",
            "alpine edge",
            "amazon linux 2",
            "Azure Linux 3.0",
            "CBL-Mariner 2.0",
            "data-source",
            "debian 12",
            "npm::RetireJS",
            "openSUSE Leap 15.5",
            "Oracle Linux 8",
            "Photon OS 4.0",
            "Red Hat",
            "Red Hat CPE",
            "rocky 8",
            "SUSE Linux Enterprise 15.5",
            "ubuntu 14.04-ESM",
            "ubuntu 22.04",
            "vulnerability",
            "wolfi",
        ];
        let systems = Systems::of(&buckets.map(|name| (name.to_owned(), 1)).into());
        for (family, version, known) in [
            ("alma", "9.4", true),
            ("alma", "8.9", false),
            ("alpine", "3.18.4", true),
            ("alpine", "3.18", true),
            ("alpine", "3.1", false),
            ("alpine", "3.99.0", false),
            ("alpine", "3.23.0_alpha20250612", true),
            ("amazon", "2 (Karoo)", true),
            // Both are taken for version 1.
            ("amazon", "2018.03", false),
            ("amazon", "2025", false),
            ("azurelinux", "3.0", true),
            ("cbl-mariner", "2.0.20240101", true),
            ("centos", "7.9.2009", true),
            ("centos", "10", false),
            ("redhat", "10.0", false),
            ("redhat", "", false),
            ("azurelinux", "4.0", false),
            ("photon", "5.0", false),
            ("sles", "15.6", false),
            ("opensuse-leap", "15.6", false),
            ("debian", "12.5", true),
            ("debian", "12", true),
            ("debian", "11.11", false),
            ("debian", "99", false),
            ("debian", "1", false),
            ("debian", "trixie/sid", false),
            ("debian", "", false),
            ("fedora", "40", false),
            ("opensuse-leap", "15.5", true),
            ("opensuse-tumbleweed", "20240101", false),
            ("oracle", "8.8", true),
            ("oracle", "9.1", false),
            ("photon", "4.0", true),
            ("redhat", "9.4", true),
            ("rocky", "8.9", true),
            ("sles", "15.5", true),
            ("slem", "5.3", false),
            ("ubuntu", "14.04", true),
            ("ubuntu", "22.04", true),
            ("ubuntu", "22.10", false),
            ("wolfi", "20230201", true),
            ("chainguard", "20230201", false),
        ] {
            assert_eq!(systems.know(family, version), known, "{family} {version}");
        }
    }

    #[test]
    fn a_system_that_trivy_never_matches_is_not_known_whatever_the_database_has_of_it() {
        let families = [
            "activestate",
            "arch",
            "archlinux",
            "bottlerocket",
            "centos-stream",
            "coreos",
            "echo",
            "fedora",
            "minimos",
            "none",
            "opensuse",
            "plan99",
            "vulnerability",
        ];
        let buckets = families
            .iter()
            .flat_map(|name| [(*name).to_owned(), format!("{name} 1")]);
        let systems = Systems::of(&buckets.map(|name| (name, 1)).collect());
        for family in families {
            assert!(
                !systems.know(family, "1") && !systems.know(family, ""),
                "{family}"
            );
        }
    }

    #[test]
    fn packages_of_a_language_that_the_database_lacks_are_told() {
        let buckets = [("debian 12", 1), ("npm::RetireJS", 1), ("pip::Empty", 0)];
        let systems = Systems::of(&buckets.map(|(name, count)| (name.to_owned(), count)).into());
        let image = |family: &str, languages: &[&str]| Summary {
            os: format!("{family} 12.5"),
            family: family.to_owned(),
            version: "12.5".to_owned(),
            languages: languages.iter().map(ToString::to_string).collect(),
            ..Summary::default()
        };
        for (summary, unknown) in [
            (image("debian", &[]), None),
            (image("debian", &["node-pkg"]), None),
            (image("", &["node-pkg", "conda-pkg"]), None),
            (
                image("", &["node-pkg", "python-pkg"]),
                Some("packages of the kind `python-pkg`"),
            ),
            (
                image("debian", &["jar", "node-pkg"]),
                Some("packages of the kind `jar`"),
            ),
            (
                image("", &["gobinary"]),
                Some("packages of the kind `gobinary`"),
            ),
            (image("alpine", &["jar"]), Some("`alpine 12.5`")),
        ] {
            assert_eq!(systems.unknown(&summary).as_deref(), unknown);
        }
    }
}
