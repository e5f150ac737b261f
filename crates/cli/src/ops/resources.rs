//! `sluice apply`, `get` and `delete`.

use std::path::Path;

use anyhow::Context as _;
use serde_json::{Map, Value, json};
use sluice_bus::Bus;
use sluice_domain::ResourceName;
use sluice_domain::resources::{Document, Kind};
use sluice_events::subject;
use sluice_state::{State, key};

use crate::output::{Format, count, line, lines, show};

/// The author of the resources, as far as the connection identifies one.
const ACTOR: &str = "cli";

/// Returns the word for a kind in sentences and arguments, as in `mirror`.
pub(crate) fn noun(kind: Kind) -> String {
    kind.as_str().to_ascii_lowercase()
}

/// Reports that a file is valid.
pub(crate) fn report_valid(file: &Path, documents: &[Document]) -> anyhow::Result<()> {
    let resources = count(documents.len(), "resource");
    line(&format!("{}: {resources}, valid", file.display()))
}

/// Applies a checked file and shows which resources changed.
pub(crate) async fn apply(bus: &Bus, file: &Path, documents: &[Document]) -> anyhow::Result<()> {
    for resource in sluice_embedded::apply_resources(bus, file, documents).await? {
        let outcome = if resource.is_changed {
            "applied"
        } else {
            "unchanged"
        };
        line(&format!("{} {} {outcome}", resource.kind, resource.name))?;
    }
    Ok(())
}

/// Prints the JSON Schema of resource files.
pub(crate) fn schema() -> anyhow::Result<()> {
    let schema = sluice_domain::resources::json_schema();
    lines(&serde_json::to_string_pretty(&schema)?)
}

/// Deletes a resource.
pub(crate) async fn delete(bus: &Bus, kind: Kind, name: &ResourceName) -> anyhow::Result<()> {
    let removed = State::open(bus)
        .await?
        .remove(bus, kind, name, ACTOR)
        .await?;
    anyhow::ensure!(removed, "{} `{name}` not found", noun(kind));
    line(&format!("{kind} {name} deleted"))
}

/// Shows resources.
pub(crate) async fn get(
    bus: &Bus,
    kind: Kind,
    name: Option<&ResourceName>,
    format: Format,
) -> anyhow::Result<()> {
    let state = State::open(bus).await?;
    let filter = name.map_or_else(
        || format!("{}.*", subject::encode(kind.as_str())),
        |name| key::resource(kind.as_str(), name),
    );
    let entries = state.resources.list(&filter).await?;
    if let (Some(name), true) = (name, entries.is_empty()) {
        anyhow::bail!(
            "{0} `{name}` not found; `sluice get {0}` lists those that exist",
            noun(kind)
        );
    }
    let mut rows = Vec::new();
    let mut objects = Vec::new();
    for entry in entries {
        let spec: Value =
            serde_json::from_str(&entry.value.json).context("a stored resource is corrupt")?;
        rows.push(vec![
            entry.value.name.clone(),
            summary(&spec),
            entry.value.applied_by.clone(),
        ]);
        objects.push(json!({ "kind": entry.value.kind, "revision": entry.revision, "spec": spec }));
    }
    if format == Format::Yaml {
        return documents(&objects);
    }
    show(
        format,
        &["NAME", "SPEC", "APPLIED BY"],
        rows,
        &Value::Array(objects),
    )
}

/// Writes resources as documents for `apply`.
fn documents(objects: &[Value]) -> anyhow::Result<()> {
    for (number, object) in objects.iter().enumerate() {
        if number > 0 {
            line("---")?;
        }
        let mut document = Map::new();
        document.insert("kind".to_owned(), object["kind"].clone());
        document.extend(object["spec"].as_object().cloned().unwrap_or_default());
        show(Format::Yaml, &[], Vec::new(), &Value::Object(document))?;
    }
    Ok(())
}

/// Returns the fields of a resource in one line, without its name.
fn summary(spec: &Value) -> String {
    let fields = spec.as_object().into_iter().flatten();
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), ToOwned::to_owned)
    };
    let shown: Vec<_> = fields
        .filter(|(key, _)| *key != "name")
        .map(|(key, value)| format!("{key}={}", text(value)))
        .collect();
    shown.join(" ")
}
