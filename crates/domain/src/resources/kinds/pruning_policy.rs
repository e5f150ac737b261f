//! Pruning policies: which tags are deleted, and when.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::ResourceName;
use crate::name::pattern::Pattern;
use crate::resources::condition::{Condition, enabled};

/// Deletes tags that meet a condition, on a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PruningPolicy {
    /// Name of the resource.
    pub name: ResourceName,
    /// Repositories to prune.
    pub repositories: Vec<Pattern>,
    /// Cron expression with five fields, in UTC.
    pub schedule: String,
    /// Condition in CEL under which a tag is deleted; see [CONDITIONS.md](CONDITIONS.md).
    pub delete: Condition,
    /// `false` deletes nothing.
    #[serde(default = "enabled")]
    pub enabled: bool,
}

impl PruningPolicy {
    pub(super) fn faults(&self) -> Vec<(&'static str, String)> {
        if self.repositories.is_empty() {
            return vec![(
                "repositories",
                "name at least one repository or pattern, as in `[hub/*]`".to_owned(),
            )];
        }
        Vec::new()
    }
}
