//! Pruning policies: which tags are deleted, and when.

use serde::{Deserialize, Serialize};

use super::{Condition, enabled};
use crate::name::ResourceName;
use crate::pattern::Pattern;

/// Deletes tags that meet a condition, on a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruningPolicy {
    /// Its name.
    pub name: ResourceName,
    /// The repositories it works in.
    pub repositories: Vec<Pattern>,
    /// When, as cron with five fields in UTC.
    pub schedule: String,
    /// The condition, in CEL.
    pub delete: Condition,
    /// Off deletes nothing.
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
