//! The declarative resources: what a person writes, with the checks that need no other resource.

mod account;
mod condition;
mod mirror;
mod promotion_policy;
mod proxy;
mod pruning_policy;
mod registry;
mod repository_settings;
mod resource;
mod webhook;
mod yaml;

pub use account::Account;
pub use condition::Condition;
pub use mirror::{Mirror, OnDelete, TagSelection};
pub use promotion_policy::{CoverageRule, PromotionPolicy, Recall, Require, Rule, UnknownFindings};
pub use proxy::{ProxyBypass, ProxySetting};
pub use pruning_policy::PruningPolicy;
pub use registry::Registry;
pub use repository_settings::{
    EffectiveSettings, Keep, KeepOrder, RepositorySettings, ScanMode, Unauthorised, Visibility,
    settings_for,
};
pub use resource::{Kind, Resource};
pub use webhook::{EVENTS, Format, Webhook};
pub use yaml::schema::{EXAMPLES, json_schema};
pub use yaml::{Document, Problem, parse_documents};

pub use crate::name::platform_filter::PlatformFilter;
pub use crate::name::target_template::TargetTemplate;
