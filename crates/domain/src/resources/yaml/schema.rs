//! The JSON Schema of resource files, for editors and for `docs/RESOURCES.md`.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema as _, Schema};
use serde_json::{Value, json};

use crate::resources::account::Account;
use crate::resources::mirror::Mirror;
use crate::resources::promotion_policy::PromotionPolicy;
use crate::resources::pruning_policy::PruningPolicy;
use crate::resources::registry::Registry;
use crate::resources::repository_settings::RepositorySettings;
use crate::resources::resource::Kind;
use crate::resources::webhook::Webhook;

/// Resources of every kind that together use every key.
pub const EXAMPLES: &str = include_str!("examples.yaml");

/// Returns the JSON Schema of one document of a resource file.
#[must_use]
pub fn json_schema() -> Value {
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    let mut generator = settings.into_generator();
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Sluice resource",
        "oneOf": Kind::ALL.map(|kind| schema_of(kind, &mut generator)),
    })
}

/// Returns the schema of one kind, with `kind` among its keys.
fn schema_of(kind: Kind, generator: &mut SchemaGenerator) -> Schema {
    let mut schema = match kind {
        Kind::Registry => Registry::json_schema(generator),
        Kind::Mirror => Mirror::json_schema(generator),
        Kind::Repository => RepositorySettings::json_schema(generator),
        Kind::PromotionPolicy => PromotionPolicy::json_schema(generator),
        Kind::PruningPolicy => PruningPolicy::json_schema(generator),
        Kind::Webhook => Webhook::json_schema(generator),
        Kind::Account => Account::json_schema(generator),
    };
    schema.insert("title".to_owned(), kind.as_str().into());
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.insert("kind".to_owned(), json!({ "const": kind.as_str() }));
    }
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.insert(0, "kind".into());
    }
    schema
}
