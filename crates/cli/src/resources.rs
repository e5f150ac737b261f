//! `apply`, `get` and `delete`.

use std::path::Path;

use anyhow::Context as _;
use serde_json::{Map, Value, json};
use sluice_bus::Bus;
use sluice_domain::ResourceName;
use sluice_domain::resources::{Document, Kind, Problem};
use sluice_events::subject::token;
use sluice_state::{State, key};

use crate::output::{Format, line, lines, show};

/// Who applies, as far as the connection tells.
const ACTOR: &str = "cli";

/// Reads and checks a file.
pub(crate) fn read(file: &Path) -> anyhow::Result<Vec<Document>> {
    read_or(file, &consequence(file))
}

/// Reads and checks a file, or standard input for `-`; says what follows from a problem.
pub(crate) fn read_or(file: &Path, consequence: &str) -> anyhow::Result<Vec<Document>> {
    let read = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let text = read.with_context(|| format!("failed to read `{}`", file.display()))?;
    sluice_policy::check::load(&text).map_err(|problems| refused(file, consequence, &problems))
}

fn consequence(file: &Path) -> String {
    format!("nothing of `{}` was applied", file.display())
}

fn refused(file: &Path, consequence: &str, problems: &[Problem]) -> anyhow::Error {
    let told: Vec<_> = problems
        .iter()
        .map(|problem| format!("  {}, {problem}", file.display()))
        .collect();
    anyhow::anyhow!("{consequence}:\n{}", told.join("\n"))
}

/// Says that a file could be applied.
pub(crate) fn checked(file: &Path, count: usize) -> anyhow::Result<()> {
    line(&format!(
        "{}: {count} resources, no problem",
        file.display()
    ))
}

/// Prints the JSON Schema of resource files.
pub(crate) fn schema() -> anyhow::Result<()> {
    let schema = sluice_domain::resources::json_schema();
    lines(&serde_json::to_string_pretty(&schema)?)
}

/// Applies a checked file and says what changed.
pub(crate) async fn apply(bus: &Bus, file: &Path, documents: &[Document]) -> anyhow::Result<()> {
    for (resource, changed) in store(bus, file, documents).await? {
        let what = if changed { "applied" } else { "unchanged" };
        line(&format!("{resource} {what}"))?;
    }
    Ok(())
}

/// Stores the resources of a checked file; returns each, and whether it is new or changed.
pub(crate) async fn store(
    bus: &Bus,
    file: &Path,
    documents: &[Document],
) -> anyhow::Result<Vec<(String, bool)>> {
    let state = State::open(bus).await?;
    let mut problems = sluice_policy::check::remote_targets(documents, &state.registries().await?);
    problems.extend(sluice_policy::check::applied_targets(
        documents,
        &state.applied().await?,
        &state.promotion_targets().await?,
    ));
    if !problems.is_empty() {
        return Err(refused(file, &consequence(file), &problems));
    }
    let mut stored = Vec::new();
    for document in documents {
        let resource = &document.resource;
        let changed = state.apply(bus, resource, ACTOR).await.with_context(|| {
            format!(
                "{}, line {}: failed to apply",
                file.display(),
                document.line
            )
        })?;
        stored.push((format!("{} {}", resource.kind(), resource.name()), changed));
    }
    Ok(stored)
}

/// Removes a resource.
pub(crate) async fn delete(bus: &Bus, kind: Kind, name: &ResourceName) -> anyhow::Result<()> {
    let removed = State::open(bus)
        .await?
        .remove(bus, kind, name, ACTOR)
        .await?;
    anyhow::ensure!(removed, "there is no {kind} `{name}`");
    line(&format!("{kind} {name} removed"))
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
        || format!("{}.*", token(kind.as_str())),
        |name| key::resource(kind.as_str(), name),
    );
    let entries = state.resources.list(&filter).await?;
    if let (Some(name), true) = (name, entries.is_empty()) {
        anyhow::bail!(
            "there is no {kind} `{name}`; `sluice get {}` lists them",
            kind.as_str().to_ascii_lowercase()
        );
    }
    let mut rows = Vec::new();
    let mut objects = Vec::new();
    for entry in entries {
        let spec: Value =
            serde_json::from_str(&entry.value.json).context("a stored resource is damaged")?;
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

/// Writes resources as the documents that `apply` takes.
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

/// One line of a resource: everything but its name.
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
