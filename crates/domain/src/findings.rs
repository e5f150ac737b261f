//! What a scanner found in one manifest: vulnerabilities and packages, in terms that every scanner has.

use serde::{Deserialize, Serialize};

use crate::severity::Severity;

/// The findings and packages of one manifest, as they are stored and shown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ManifestFindings {
    /// The vulnerabilities, the worst first.
    pub findings: Vec<Finding>,
    /// The packages, by kind, name and version.
    pub packages: Vec<Package>,
    /// Whether something was left out or shortened, because it was more than is stored.
    pub truncated: bool,
}

/// One vulnerability in one package at one place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Finding {
    /// The identifier of the vulnerability, as in `CVE-2026-1234` or `GHSA-…`.
    pub id: String,
    /// The name of the package.
    pub package: String,
    /// The version that is installed.
    pub installed_version: String,
    /// The versions that fix it, as the advisory writes them; empty where none does.
    pub fixed_version: String,
    /// How bad it is.
    pub severity: Severity,
    /// Who rated the severity, as in `debian` or `nvd`; empty where nobody did.
    pub severity_source: String,
    /// The CVSS score, 0 to 10, of the source that rated the severity, else of NVD, else the worst of any.
    pub score: Option<f64>,
    /// The kind of package as the scanner names it, as in `debian` or `python-pkg`.
    pub kind: String,
    /// The package URL, empty where the scanner gives none.
    pub purl: String,
    /// The file of the package in the image, empty for a package of the operating system.
    pub path: String,
    /// The digest of the unpacked layer that brought the package.
    pub layer: String,
    /// What it is, in one line.
    pub title: String,
    /// Where to read more, empty for nowhere.
    pub url: String,
}

impl Default for Finding {
    fn default() -> Self {
        Self {
            id: String::new(),
            package: String::new(),
            installed_version: String::new(),
            fixed_version: String::new(),
            severity: Severity::Unknown,
            severity_source: String::new(),
            score: None,
            kind: String::new(),
            purl: String::new(),
            path: String::new(),
            layer: String::new(),
            title: String::new(),
            url: String::new(),
        }
    }
}

/// A package of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Package {
    /// The kind of package as the scanner names it.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The version as its package manager writes it.
    pub version: String,
    /// The package URL, empty where the scanner gives none.
    pub purl: String,
    /// The file of the package in the image, empty for a package of the operating system.
    pub path: String,
    /// The digest of the unpacked layer that brought it.
    pub layer: String,
    /// The licences that the package names, as it writes them.
    pub licenses: Vec<String>,
}

/// The most findings that are stored of a manifest; the worst come first.
const MAX_FINDINGS: usize = 10_000;
/// The most packages that are stored of a manifest.
const MAX_PACKAGES: usize = 20_000;
/// The most bytes of a name, path or title that are stored.
const MAX_TEXT: usize = 256;

impl ManifestFindings {
    /// Leaves out and shortens what is more than is stored: an image decides how many packages it has, and their names.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.truncated |= self.findings.len() > MAX_FINDINGS || self.packages.len() > MAX_PACKAGES;
        self.findings.truncate(MAX_FINDINGS);
        self.packages.truncate(MAX_PACKAGES);
        let findings = self.findings.iter_mut().flat_map(Finding::texts);
        let packages = self.packages.iter_mut().flat_map(Package::texts);
        let mut is_shortened = false;
        for text in findings.chain(packages) {
            if text.len() > MAX_TEXT {
                text.truncate(text.floor_char_boundary(MAX_TEXT));
                is_shortened = true;
            }
        }
        self.truncated |= is_shortened;
        self
    }

    /// Says whether two scans found the same vulnerabilities in the same versions with the same ratings and fixes.
    #[must_use]
    pub fn has_same_findings(&self, other: &Self) -> bool {
        fn facts(finding: &Finding) -> ([&str; 3], &str, &str, Severity, Option<u64>) {
            (
                finding.identity(),
                &finding.installed_version,
                &finding.fixed_version,
                finding.severity,
                finding.score.map(f64::to_bits),
            )
        }
        let (mut ours, mut theirs): (Vec<_>, Vec<_>) = (
            self.findings.iter().map(facts).collect(),
            other.findings.iter().map(facts).collect(),
        );
        ours.sort_unstable();
        theirs.sort_unstable();
        // What was left out may differ.
        !self.truncated && !other.truncated && ours == theirs
    }
}

impl Finding {
    /// Says whether a newer package fixes it.
    #[must_use]
    pub const fn is_fixable(&self) -> bool {
        !self.fixed_version.is_empty()
    }

    fn texts(&mut self) -> [&mut String; 11] {
        [
            &mut self.id,
            &mut self.package,
            &mut self.installed_version,
            &mut self.fixed_version,
            &mut self.severity_source,
            &mut self.kind,
            &mut self.purl,
            &mut self.path,
            &mut self.layer,
            &mut self.title,
            &mut self.url,
        ]
    }

    /// Returns what makes two findings of two scans the same one: a newer package with the same vulnerability is the same.
    #[must_use]
    pub fn identity(&self) -> [&str; 3] {
        [&self.id, &self.package, &self.path]
    }
}

impl Package {
    fn texts(&mut self) -> impl Iterator<Item = &mut String> {
        self.licenses.truncate(16);
        let texts = [
            &mut self.kind,
            &mut self.name,
            &mut self.version,
            &mut self.purl,
            &mut self.path,
            &mut self.layer,
        ];
        texts.into_iter().chain(&mut self.licenses)
    }
}

/// The differences between the findings of two scans.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FindingsDifference {
    /// Findings of the later scan only.
    pub appeared: Vec<Finding>,
    /// Findings of the earlier scan only.
    pub disappeared: Vec<Finding>,
}

impl FindingsDifference {
    /// Compares the findings of two scans.
    #[must_use]
    pub fn between(earlier: &[Finding], later: &[Finding]) -> Self {
        let only = |these: &[Finding], others: &[Finding]| {
            let others: std::collections::HashSet<_> =
                others.iter().map(Finding::identity).collect();
            let these = these.iter().filter(|one| !others.contains(&one.identity()));
            these.cloned().collect()
        };
        Self {
            appeared: only(later, earlier),
            disappeared: only(earlier, later),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(id: &str, installed: &str) -> Finding {
        Finding {
            id: id.to_owned(),
            package: "libc6".to_owned(),
            installed_version: installed.to_owned(),
            ..Finding::default()
        }
    }

    #[test]
    fn a_vulnerability_that_stays_in_a_newer_package_is_no_difference() {
        let earlier = [finding("CVE-1", "1"), finding("CVE-2", "1")];
        let later = [finding("CVE-2", "2"), finding("CVE-3", "2")];
        let difference = FindingsDifference::between(&earlier, &later);
        assert_eq!(difference.appeared, [finding("CVE-3", "2")]);
        assert_eq!(difference.disappeared, [finding("CVE-1", "1")]);
    }

    #[test]
    fn what_is_more_than_is_stored_is_left_out_and_never_the_same() {
        let long = Finding {
            package: "ä".repeat(MAX_TEXT),
            ..finding("CVE-1", "1")
        };
        let of = |findings: Vec<Finding>| ManifestFindings {
            findings,
            ..ManifestFindings::default()
        };
        let shortened = of(vec![long]).bounded();
        assert_eq!(shortened.findings[0].package, "ä".repeat(MAX_TEXT / 2));
        let many = of(vec![finding("CVE-1", "1"); MAX_FINDINGS + 1]).bounded();
        assert_eq!(many.findings.len(), MAX_FINDINGS);
        for bounded in [shortened, many] {
            assert!(bounded.truncated && !bounded.has_same_findings(&bounded));
        }
        let whole = of(vec![finding("CVE-1", "1")]).bounded();
        assert!(!whole.truncated && whole.has_same_findings(&whole));
    }

    #[test]
    fn a_changed_rating_or_fix_is_another_result_and_another_title_or_order_is_none() {
        let of = |findings: &[Finding]| ManifestFindings {
            findings: findings.to_vec(),
            ..ManifestFindings::default()
        };
        let (one, two) = (finding("CVE-1", "1"), finding("CVE-2", "1"));
        let titled = Finding {
            title: "new".to_owned(),
            ..one.clone()
        };
        let before = of(&[one.clone(), two.clone()]);
        assert!(before.has_same_findings(&of(&[two.clone(), titled])));
        for changed in [
            Finding {
                severity: Severity::High,
                ..one.clone()
            },
            Finding {
                fixed_version: "2".to_owned(),
                ..one.clone()
            },
            Finding {
                score: Some(1.0),
                ..one.clone()
            },
            Finding {
                installed_version: "2".to_owned(),
                ..one
            },
        ] {
            assert!(!before.has_same_findings(&of(&[changed, two.clone()])));
        }
        assert!(!before.has_same_findings(&of(&[two])));
    }

    #[test]
    fn fields_that_a_later_version_adds_or_leaves_out_do_not_hide_the_others() {
        let read: ManifestFindings =
            serde_json::from_str(r#"{"findings":[{"id":"CVE-1","new":1}]}"#).unwrap();
        assert_eq!(
            read.findings,
            [Finding {
                id: "CVE-1".to_owned(),
                ..Finding::default()
            }]
        );
    }
}
