//! What a database covers. Pure.
//!
//! An image of another distribution or language has no findings whatever is in it, which is not the same as clean.

use crate::scanner::Summary;
use crate::trivy::database::advisory_buckets::AdvisoryBuckets;
use crate::trivy::database::supported_distributions::SupportedDistributions;
use crate::trivy::database::supported_ecosystems::{SupportedEcosystems, ecosystem};

/// The distributions and ecosystems that a database has advisories for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DatabaseCoverage {
    distributions: SupportedDistributions,
    ecosystems: SupportedEcosystems,
}

impl DatabaseCoverage {
    pub(crate) fn of(buckets: &AdvisoryBuckets) -> Self {
        Self {
            distributions: SupportedDistributions::of(buckets),
            ecosystems: SupportedEcosystems::of(buckets),
        }
    }

    /// Names what in an image the database has no advisories for.
    pub(crate) fn unknown(&self, summary: &Summary) -> Option<String> {
        let Summary {
            family, version, ..
        } = summary;
        if !family.is_empty() && !self.distributions.has(family, version) {
            return Some(unknown_distribution(summary));
        }
        let is_unknown =
            |kind: &&String| ecosystem(kind).is_some_and(|name| !self.ecosystems.has(name));
        let kind = summary.languages.iter().find(is_unknown)?;
        Some(unknown_kind(kind))
    }
}

/// Names the distribution of an image.
pub(crate) fn unknown_distribution(summary: &Summary) -> String {
    format!("`{}`", summary.os)
}

/// Names the packages of a kind.
pub(crate) fn unknown_kind(kind: &str) -> String {
    format!("packages of the kind `{kind}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_a_language_that_the_database_lacks_are_unknown() {
        let buckets = [("debian 12", 1), ("npm::RetireJS", 1), ("pip::Empty", 0)];
        let coverage = DatabaseCoverage::of(&AdvisoryBuckets::from_counts(buckets));
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
            assert_eq!(coverage.unknown(&summary).as_deref(), unknown);
        }
    }
}
