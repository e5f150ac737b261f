//! `docs/RESOURCES.md`, from the JSON Schema of resource files, which is made of the types that read them.

use std::collections::BTreeMap;

use serde_json::Value;
use sluice_domain::resources::{EXAMPLES, Kind, json_schema};

use super::{check, code, table};

const INTRODUCTION: &str = "Every kind of resource with every key. Resources are YAML documents, separated by `---`, that `sluice apply` applies to an installation.

`sluice schema` prints the JSON Schema of a document. Saved as `sluice.schema.json`, it gives editors completion and checks; the YAML language server finds it by the first line of a file:

```yaml
# yaml-language-server: $schema=sluice.schema.json
```

A key without a default may be left out unless it is required. Unknown keys are refused.
Values of type *secret* name a file in the folder of secrets: [REGISTRIES.md](REGISTRIES.md#secrets). *Patterns* are globs in which `*` stays within one path component and `**` crosses them.
";

/// The rows of one kind.
struct Rows<'a> {
    examples: &'a BTreeMap<String, Value>,
    rows: Vec<Vec<String>>,
}

#[test]
fn the_page_of_resources_matches_their_types() {
    let documents = sluice_policy::check::load(EXAMPLES).unwrap();
    let mut page = INTRODUCTION.to_owned();
    let schema = json_schema();
    for (schema, kind) in schema["oneOf"].as_array().unwrap().iter().zip(Kind::ALL) {
        let of_kind = documents
            .iter()
            .filter(|document| document.resource.kind() == kind);
        let mut examples = BTreeMap::new();
        for document in of_kind {
            let json = document.resource.to_json().unwrap();
            collect(&mut examples, "", &serde_json::from_str(&json).unwrap());
        }
        let mut rows = Rows {
            examples: &examples,
            rows: Vec::new(),
        };
        rows.add(schema, "");
        let header = ["key", "type", "default", "example", "meaning"];
        let about = text(schema, "description");
        page.push_str(&format!(
            "\n## {kind}\n\n{about}\n\n{}\n```yaml\n{}```\n",
            table(&header, &rows.rows),
            written(kind)
        ));
    }
    check("RESOURCES.md", "Resources", &page);
}

/// Returns the documents of a kind as they are written in the examples.
fn written(kind: Kind) -> String {
    let documents = EXAMPLES.split("---\n");
    let documents = documents.filter(|text| text.starts_with(&format!("kind: {kind}\n")));
    documents.collect::<Vec<_>>().join("---\n")
}

/// Notes the first value of every key; empty ones show nothing.
fn collect(examples: &mut BTreeMap<String, Value>, path: &str, value: &Value) {
    if matches!(value, Value::Array(list) if list.is_empty()) || value.is_null() {
        return;
    }
    if let Value::Object(keys) = value {
        for (key, value) in keys {
            collect(examples, &format!("{path}.{key}"), value);
        }
    }
    if let Value::Array(list) = value {
        collect(examples, &format!("{path}[]"), &list[0]);
    }
    examples
        .entry(path.trim_start_matches('.').to_owned())
        .or_insert_with(|| value.clone());
}

impl Rows<'_> {
    /// Adds the keys of an object: first those that are required, then the others by name.
    fn add(&mut self, schema: &Value, prefix: &str) {
        let Some(properties) = schema["properties"].as_object() else {
            return;
        };
        let is_required = |key: &str| {
            let required = schema["required"].as_array();
            required.is_some_and(|required| required.iter().any(|name| name == key))
        };
        let mut keys: Vec<&String> = properties.keys().filter(|key| *key != "kind").collect();
        keys.sort_by_key(|key| (*key != "name", !is_required(key), (*key).clone()));
        for key in keys {
            let path = format!("{prefix}{key}");
            let property = &properties[key];
            let default = if is_required(key) {
                "required".to_owned()
            } else {
                default(property)
            };
            let example = self.examples.get(&path);
            let example = example.unwrap_or_else(|| panic!("`{path}` has no example"));
            let kind = type_of(property);
            let about = text(property, "description");
            assert!(!about.is_empty(), "`{path}` is not described");
            let mut meaning = about.to_owned();
            for (value, about) in choices(property) {
                meaning.push_str(&format!(" {}: {about}", code(&value)));
            }
            self.rows.push(vec![
                code(&path),
                kind,
                default,
                code(&flow(example)),
                meaning,
            ]);
            for (suffix, object) in objects(property) {
                self.add(object, &format!("{path}{suffix}."));
            }
        }
    }
}

fn text<'a>(schema: &'a Value, key: &str) -> &'a str {
    schema[key].as_str().unwrap_or_default()
}

/// Returns the alternatives of a schema; one without is its own.
fn alternatives(schema: &Value) -> Vec<&Value> {
    let list = ["anyOf", "oneOf"]
        .iter()
        .find_map(|key| schema[key].as_array());
    let Some(list) = list else {
        return vec![schema];
    };
    let some = list.iter().filter(|one| text(one, "type") != "null");
    some.flat_map(alternatives).collect()
}

/// Returns the fixed values of a schema that are described.
fn choices(schema: &Value) -> Vec<(String, String)> {
    let described = alternatives(schema).into_iter().filter_map(|one| {
        let value = one["const"].as_str()?;
        let about = one["description"].as_str()?;
        Some((value.to_owned(), about.to_owned()))
    });
    described.collect()
}

/// Returns the objects whose keys get rows of their own, with what stands between their path and the keys.
fn objects(schema: &Value) -> Vec<(&'static str, &Value)> {
    let is_object = |one: &Value| one["properties"].is_object() && text(one, "title") != "secret";
    let mut found = Vec::new();
    for one in alternatives(schema) {
        if is_object(one) {
            found.push(("", one));
        } else if is_object(&one["items"]) {
            found.push(("[]", &one["items"]));
        }
    }
    found
}

fn type_of(schema: &Value) -> String {
    let mut kinds: Vec<String> = Vec::new();
    for one in alternatives(schema) {
        let json_type = match &one["type"] {
            Value::Array(list) => list[0].as_str().unwrap(),
            other => other.as_str().unwrap_or_default(),
        };
        let kind = match (one["const"].as_str(), text(one, "title"), json_type) {
            (Some(value), _, _) => code(value),
            (None, "", "array") => format!("list: {}", type_of(&one["items"])),
            (None, "", "object") => "keys".to_owned(),
            (None, "", "integer") => "number".to_owned(),
            (None, "", other) => other.to_owned(),
            (None, title, _) => title.to_owned(),
        };
        kinds.push(kind);
    }
    kinds.join(" or ")
}

fn default(schema: &Value) -> String {
    match &schema["default"] {
        Value::Null if alternatives(schema)[0]["type"] == "boolean" => code("false"),
        Value::Null | Value::Object(_) => String::new(),
        Value::Array(list) if list.is_empty() => String::new(),
        value => code(&flow(value)),
    }
}

/// Returns a value as YAML in one line.
fn flow(value: &Value) -> String {
    match value {
        Value::Object(keys) => {
            let keys: Vec<_> = keys
                .iter()
                .map(|(key, value)| format!("{key}: {}", flow(value)))
                .collect();
            format!("{{ {} }}", keys.join(", "))
        }
        Value::Array(list) => {
            let list: Vec<_> = list.iter().map(flow).collect();
            format!("[{}]", list.join(", "))
        }
        Value::String(text) => {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+: &=".contains(c);
            if text.chars().all(is_plain) && text.parse::<f64>().is_err() {
                text.clone()
            } else {
                format!("'{}'", text.replace('\'', "''"))
            }
        }
        other => other.to_string(),
    }
}
