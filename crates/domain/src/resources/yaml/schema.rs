//! The JSON Schema of resource files, for editors and for `docs/RESOURCES.md`.

use schemars::Schema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Value, json};

use crate::resources::kinds::Kind;

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
    let mut schema = kind.schema(generator);
    schema.insert("title".to_owned(), kind.as_str().into());
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.insert("kind".to_owned(), json!({ "const": kind.as_str() }));
    }
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.insert(0, "kind".into());
    }
    schema
}
