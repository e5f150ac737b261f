//! The distributions whose packages Trivy matches with a database, by the buckets that it has. Pure.

use std::collections::BTreeSet;

use crate::trivy::database::advisory_buckets::AdvisoryBuckets;

/// The distributions that a database has advisories for, as the names of its buckets in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SupportedDistributions(BTreeSet<String>);

/// How Trivy makes the name of a bucket from the version of a distribution.
#[derive(Debug, Clone, Copy)]
enum BucketRule {
    /// `12.5` is in `12`.
    Major,
    /// `3.18.4` is in `3.18`.
    Minor,
    /// The version as it is written.
    Exact,
    /// All versions are in one bucket.
    One,
    /// `2`, `2022` and `2023` have one each; every other version is in that of `1`.
    Amazon,
    /// All versions are in one, and Trivy finds the advisories of four major versions only.
    RedHat,
}

/// The families of which Trivy matches packages, with the bucket and the format of their packages in purls.
///
/// A family that is not here is not covered, whatever the database has: Trivy 0.59 to 0.74 then list its packages
/// nowhere (Fedora), or not in all versions (Bottlerocket).
const FAMILIES: [(&str, &str, BucketRule, &str); 18] = [
    ("alma", "alma", BucketRule::Major, "rpm/alma"),
    ("alpine", "alpine", BucketRule::Minor, "apk/alpine"),
    ("amazon", "amazon linux", BucketRule::Amazon, "rpm/amazon"),
    (
        "azurelinux",
        "azure linux",
        BucketRule::Minor,
        "rpm/azurelinux",
    ),
    (
        "cbl-mariner",
        "cbl-mariner",
        BucketRule::Minor,
        "rpm/cbl-mariner",
    ),
    ("centos", "red hat", BucketRule::RedHat, "rpm/centos"),
    (
        "chainguard",
        "chainguard",
        BucketRule::One,
        "apk/chainguard",
    ),
    ("debian", "debian", BucketRule::Major, "deb/debian"),
    (
        "opensuse-leap",
        "opensuse leap",
        BucketRule::Exact,
        "rpm/opensuse",
    ),
    (
        "opensuse-tumbleweed",
        "opensuse tumbleweed",
        BucketRule::One,
        "rpm/opensuse",
    ),
    ("oracle", "oracle linux", BucketRule::Major, "rpm/oracle"),
    ("photon", "photon os", BucketRule::Exact, "rpm/photon"),
    ("redhat", "red hat", BucketRule::RedHat, "rpm/redhat"),
    ("rocky", "rocky", BucketRule::Major, "rpm/rocky"),
    (
        "slem",
        "suse linux enterprise micro",
        BucketRule::Exact,
        "rpm/suse",
    ),
    (
        "sles",
        "suse linux enterprise",
        BucketRule::Exact,
        "rpm/suse",
    ),
    ("ubuntu", "ubuntu", BucketRule::Minor, "deb/ubuntu"),
    ("wolfi", "wolfi", BucketRule::One, "apk/wolfi"),
];

impl SupportedDistributions {
    /// Keeps the names of the buckets that have any entry.
    pub(crate) fn of(buckets: &AdvisoryBuckets) -> Self {
        Self(buckets.filled().map(str::to_lowercase).collect())
    }

    /// Says whether the database has advisories for a version of a distribution.
    pub(crate) fn has(&self, family: &str, version: &str) -> bool {
        let Some((_, name, rule, _)) = FAMILIES.iter().find(|(known, ..)| *known == family) else {
            return false;
        };
        let has = |version: &str| {
            let bucket = format!("{name} {}", version.to_lowercase());
            self.0.contains(&bucket)
        };
        match rule {
            BucketRule::Major => has(&parts(version, 1)),
            BucketRule::Minor => {
                let minor = parts(version, 2);
                // The development branch of Alpine has a bucket of its own, and a version of Ubuntu may have only one for
                // its extended maintenance.
                has(&minor)
                    || has(&format!("{minor}-esm"))
                    || (version.contains("_alpha") && has("edge"))
            }
            BucketRule::Exact => has(version),
            BucketRule::One => self.0.contains(*name),
            BucketRule::Amazon => {
                let first = version.split([' ', '.']).next().unwrap_or_default();
                has(if ["2", "2022", "2023"].contains(&first) {
                    first
                } else {
                    "1"
                })
            }
            BucketRule::RedHat => {
                let first = parts(version, 1);
                ["6", "7", "8", "9"].contains(&first.as_str()) && self.0.contains(*name)
            }
        }
    }
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
    fn distributions_are_supported_by_the_buckets_that_trivy_looks_into() {
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
        let distributions = SupportedDistributions::of(&AdvisoryBuckets::from_counts(
            buckets.map(|name| (name, 1)),
        ));
        for (family, version, is_supported) in [
            ("alma", "9.4", true),
            ("alma", "8.9", false),
            ("alpine", "3.18.4", true),
            ("alpine", "3.18", true),
            ("alpine", "3.1", false),
            ("alpine", "3.99.0", false),
            ("alpine", "3.23.0_alpha20250612", true),
            ("amazon", "2 (Karoo)", true),
            // Trivy looks into the bucket of version 1 for both.
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
            assert_eq!(
                distributions.has(family, version),
                is_supported,
                "{family} {version}"
            );
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
        let distributions = SupportedDistributions::of(&AdvisoryBuckets::from_counts(
            buckets.map(|name| (name, 1)),
        ));
        for family in families {
            assert!(
                !distributions.has(family, "1") && !distributions.has(family, ""),
                "{family}"
            );
        }
    }
}
