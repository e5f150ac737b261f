//! The facts that a condition may speak of, and how they become its variables.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cel::{Context, Env, Value};
use chrono::{DateTime, Utc};
use sluice_domain::{Platform, SeverityCounts};

use super::schema::Scope;

/// The most labels that are shown to a condition; more make `image.labels` unknown, so that loops stay short.
const MAX_LABELS: usize = 128;

/// What is known when a condition is evaluated.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The tag.
    pub tag: &'a str,
    /// The repository it is in.
    pub repository: &'a str,
    /// The platform of the child image; only in [`Scope::Promotion`].
    pub platform: Option<&'a Platform>,
    /// What the scanner found. Without it, or with zero packages, `scan` is not declared.
    pub scan: Option<&'a ScanFacts>,
    /// What the image says of itself.
    pub image: &'a ImageFacts,
    /// When the tag came to name this digest here.
    pub updated_at: Option<DateTime<Utc>>,
    /// The time of the decision.
    pub now: DateTime<Utc>,
}

/// What a scanner found in one image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScanFacts {
    /// Findings by severity.
    pub counts: SeverityCounts,
    /// Findings by DTR's buckets.
    pub dtr: DtrCounts,
    /// Findings that a newer package fixes, where the scanner tells.
    pub fixable: Option<u64>,
    /// Packages that the scanner saw.
    pub packages: u64,
    /// The operating system it recognised, as in `debian 12.5`.
    pub os: Option<String>,
    /// Whether that system gets no more advisories, so that findings may be missing.
    pub end_of_life: bool,
    /// When the image was last matched against the scanner's database.
    pub scanned_at: Option<DateTime<Utc>>,
}

/// Findings in the buckets of Docker Trusted Registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DtrCounts {
    /// A score of 7 or more.
    pub critical: u64,
    /// A score of 4 to below 7.
    pub major: u64,
    /// A score below 4.
    pub minor: u64,
}

/// What an image says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// When it was built.
    pub created: Option<DateTime<Utc>>,
    /// The size of its layers.
    pub size_bytes: Option<u64>,
    /// The labels of its configuration; `None` where they are not known.
    pub labels: Option<BTreeMap<String, String>>,
    /// The platforms of the index, or of the one image.
    pub platforms: Vec<Platform>,
}

impl Facts<'_> {
    /// Declares what is known; what is not stays undeclared, so that naming it makes a condition undetermined.
    pub(super) fn context(
        &self,
        environment: &Arc<Env>,
        scope: Scope,
    ) -> Context<'static, 'static> {
        let mut context = Context::with_env(Arc::clone(environment));
        context.add_variable_from_value("tag", self.tag);
        context.add_variable_from_value("repository", self.repository);
        context.add_variable_from_value("now", timestamp(self.now));
        context.add_variable_from_value("image", image(self.image));
        if let Some(updated_at) = self.updated_at {
            context.add_variable_from_value("updated_at", timestamp(updated_at));
        }
        if let Some(facts) = self.scan.filter(|scan| scan.packages > 0) {
            context.add_variable_from_value("scan", scan(facts, self.now));
        }
        if let Some(platform) = self.platform.filter(|_| scope == Scope::Promotion) {
            context.add_variable_from_value("platform", platform.to_string());
        }
        context
    }
}

fn scan(facts: &ScanFacts, now: DateTime<Utc>) -> Value {
    let dtr: HashMap<String, Value> = HashMap::from([
        ("critical".to_owned(), count(facts.dtr.critical)),
        ("major".to_owned(), count(facts.dtr.major)),
        ("minor".to_owned(), count(facts.dtr.minor)),
    ]);
    let mut fields: HashMap<String, Value> = HashMap::from([
        ("critical".to_owned(), count(facts.counts.critical)),
        ("high".to_owned(), count(facts.counts.high)),
        ("medium".to_owned(), count(facts.counts.medium)),
        ("low".to_owned(), count(facts.counts.low)),
        ("unknown".to_owned(), count(facts.counts.unknown)),
        ("total".to_owned(), count(facts.counts.total())),
        ("packages".to_owned(), count(facts.packages)),
        ("end_of_life".to_owned(), Value::Bool(facts.end_of_life)),
        ("dtr".to_owned(), dtr.into()),
    ]);
    if let Some(fixable) = facts.fixable {
        fields.insert("fixable".to_owned(), count(fixable));
    }
    if let Some(os) = &facts.os {
        fields.insert("os".to_owned(), os.as_str().into());
    }
    if let Some(scanned_at) = facts.scanned_at {
        fields.insert("age".to_owned(), Value::Duration(now - scanned_at));
    }
    fields.into()
}

fn image(facts: &ImageFacts) -> Value {
    let platforms: Vec<String> = facts.platforms.iter().map(Platform::to_string).collect();
    let mut fields: HashMap<String, Value> =
        HashMap::from([("platforms".to_owned(), platforms.into())]);
    if let Some(labels) = &facts.labels
        && labels.len() <= MAX_LABELS
    {
        let labels: HashMap<String, String> = labels
            .iter()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        fields.insert("labels".to_owned(), labels.into());
    }
    if let Some(created) = facts.created {
        fields.insert("created".to_owned(), timestamp(created));
    }
    if let Some(size_bytes) = facts.size_bytes {
        fields.insert("size_bytes".to_owned(), count(size_bytes));
    }
    fields.into()
}

fn count(number: u64) -> Value {
    Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

fn timestamp(at: DateTime<Utc>) -> Value {
    Value::Timestamp(at.fixed_offset())
}
