//! The declarative resources: what a person writes, with the checks that need no other resource.

mod condition;
mod kinds;
mod proxy;
mod yaml;

pub use condition::Condition;
pub use kinds::*;
pub use proxy::{ProxyBypass, ProxySetting};
pub use yaml::schema::{EXAMPLES, json_schema};
pub use yaml::{Document, Problem, parse_documents};

pub use crate::name::platform_filter::PlatformFilter;
pub use crate::name::target_template::TargetTemplate;
