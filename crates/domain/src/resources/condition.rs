//! Values that several kinds of resources have: a condition, and the switch `enabled`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A condition in CEL, as written; `sluice-policy` compiles it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(title = "condition")]
pub struct Condition(pub String);

/// The default of switches that are on unless they are turned off.
pub(crate) const fn enabled() -> bool {
    true
}
