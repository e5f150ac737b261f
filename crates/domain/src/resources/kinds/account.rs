//! Accounts of people and build systems at the internal registry.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::pattern::Pattern;
use crate::name::secret::SecretRef;
use crate::name::{AccountName, ResourceName};
use crate::stages::is_service_account;

/// A person's or a build system's account at the internal registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// User name.
    pub name: ResourceName,
    /// Password of the account.
    pub password: SecretRef,
    /// Repositories that the account may pull, besides the public ones.
    #[serde(default)]
    pub pull: Vec<Pattern>,
    /// Repositories that the account may push to and delete from; targets of promotion policies are never among them.
    #[serde(default)]
    pub push: Vec<Pattern>,
}

impl Account {
    pub(super) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if let Err(error) = self.name.as_str().parse::<AccountName>() {
            faults.push(("name", error.to_string()));
        }
        if is_service_account(self.name.as_str()) {
            faults.push((
                "name",
                "this is the account of one of Sluice's own services; choose another name"
                    .to_owned(),
            ));
        }
        if self.pull.is_empty() && self.push.is_empty() {
            faults.push((
                "name",
                "the account may neither pull nor push; add `pull` or `push`, as in `push: [hub/*]`".to_owned(),
            ));
        }
        faults
    }
}
