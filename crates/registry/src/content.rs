//! What registries serve: manifests, attachments and references. Pure.

pub(crate) mod attachment;
mod canonical_json;
pub(crate) mod manifest;
mod platform_filter;
pub(crate) mod reference;
mod referrers_index;
mod strict_json;
