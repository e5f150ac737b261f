//! Of which operating systems and languages a database knows anything. Pure.
//!
//! An image of another one has no findings whatever is in it, and that is not the same as clean.

use std::collections::BTreeSet;

use crate::report::Summary;

/// What is known of a database's buckets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Systems(BTreeSet<String>);

/// How Trivy makes the name of a system's bucket from its version.
#[derive(Debug, Clone, Copy)]
enum Precision {
    /// `12.5` is in `12`.
    Major,
    /// `3.18.4` is in `3.18`.
    Minor,
    /// Only the family is told: how its versions are written differs, or one bucket has all.
    Family,
}

/// The families whose buckets are not named after them, and those whose versions are looked at.
///
/// A family that is not here is known if any bucket's name begins with its own.
const FAMILIES: [(&str, &str, Precision); 17] = [
    ("alma", "alma", Precision::Major),
    ("alpine", "alpine", Precision::Minor),
    ("amazon", "amazon linux", Precision::Family),
    ("azurelinux", "azure linux", Precision::Family),
    ("cbl-mariner", "cbl-mariner", Precision::Family),
    ("centos", "red hat", Precision::Family),
    ("debian", "debian", Precision::Major),
    ("opensuse-leap", "opensuse leap", Precision::Family),
    (
        "opensuse-tumbleweed",
        "opensuse tumbleweed",
        Precision::Family,
    ),
    ("oracle", "oracle linux", Precision::Major),
    ("photon", "photon os", Precision::Family),
    ("redhat", "red hat", Precision::Family),
    ("rocky", "rocky", Precision::Major),
    ("sles", "suse linux enterprise", Precision::Family),
    ("slem", "suse linux enterprise micro", Precision::Family),
    (
        "suse linux enterprise server",
        "suse linux enterprise",
        Precision::Family,
    ),
    ("ubuntu", "ubuntu", Precision::Minor),
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
            let ecosystem = LANGUAGES.iter().find(|(name, _)| *name == kind.as_str());
            ecosystem.is_some_and(|(_, ecosystem)| {
                let prefix = format!("{ecosystem}::");
                !self.0.iter().any(|bucket| bucket.starts_with(&prefix))
            })
        };
        let kind = summary.languages.iter().find(missing)?;
        Some(format!("packages of the kind `{kind}`"))
    }

    /// Makes it of the names of all buckets.
    pub(crate) fn of(buckets: BTreeSet<String>) -> Self {
        Self(buckets.iter().map(|name| name.to_lowercase()).collect())
    }

    /// Says whether the database knows anything of a system.
    fn know(&self, family: &str, version: &str) -> bool {
        let family = family.to_lowercase();
        let rule = FAMILIES.iter().find(|(name, _, _)| *name == family);
        let (named, precision) = rule.map_or((family.as_str(), Precision::Family), |rule| {
            (rule.1, rule.2)
        });
        match precision {
            Precision::Family => self.0.iter().any(|bucket| is_of(bucket, named)),
            Precision::Major => self.0.contains(&format!("{named} {}", parts(version, 1))),
            Precision::Minor => {
                let bucket = format!("{named} {}", parts(version, 2));
                // Packages of Alpine's development branch, which comes before its next version, have one of their own;
                // Ubuntu's may have only one for its extended maintenance.
                let others = [format!("{bucket}-esm"), format!("{named} edge")];
                let [extended, edge] = &others;
                self.0.contains(&bucket)
                    || self.0.contains(extended)
                    || (version.contains("_alpha") && self.0.contains(edge))
            }
        }
    }
}

/// Says whether a bucket is that of a family, of whatever version.
fn is_of(bucket: &str, family: &str) -> bool {
    bucket
        .strip_prefix(family)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
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
        let systems = Systems::of(buckets.map(str::to_owned).into());
        for (family, version, known) in [
            ("alma", "9.4", true),
            ("alma", "8.9", false),
            ("alpine", "3.18.4", true),
            ("alpine", "3.18", true),
            ("alpine", "3.1", false),
            ("alpine", "3.99.0", false),
            ("alpine", "3.23.0_alpha20250612", true),
            ("amazon", "2 (Karoo)", true),
            ("azurelinux", "3.0", true),
            ("cbl-mariner", "2.0.20240101", true),
            ("centos", "7.9.2009", true),
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
    fn packages_of_a_language_that_the_database_lacks_are_told() {
        let systems = Systems::of(["debian 12", "npm::RetireJS"].map(str::to_owned).into());
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
