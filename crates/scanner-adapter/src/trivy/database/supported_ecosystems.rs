//! The ecosystems of languages whose packages Trivy matches with a database, by the buckets that it has. Pure.

use std::collections::BTreeSet;

use crate::trivy::database::advisory_buckets::AdvisoryBuckets;

/// The ecosystems that a database has advisories for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SupportedEcosystems(BTreeSet<&'static str>);

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

impl SupportedEcosystems {
    /// Keeps the ecosystems of which a bucket has any entry.
    pub(crate) fn of(buckets: &AdvisoryBuckets) -> Self {
        let names: Vec<String> = buckets.filled().map(str::to_lowercase).collect();
        let has_bucket = |ecosystem: &&str| {
            let prefix = format!("{ecosystem}::");
            names.iter().any(|name| name.starts_with(&prefix))
        };
        let all = LANGUAGES.iter().map(|(_, ecosystem)| *ecosystem);
        Self(all.filter(has_bucket).collect())
    }

    /// Says whether the database has advisories for an ecosystem.
    pub(crate) fn has(&self, ecosystem: &str) -> bool {
        self.0.contains(ecosystem)
    }
}

/// Returns the ecosystem in whose buckets Trivy looks for packages of a kind, unless it matches none of that kind.
pub(crate) fn ecosystem(kind: &str) -> Option<&'static str> {
    let found = LANGUAGES.iter().find(|(name, _)| *name == kind);
    found.map(|(_, ecosystem)| *ecosystem)
}
