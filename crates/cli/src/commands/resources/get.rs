//! `sluice get`: the resources that are applied.

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value, json};
use sluice_domain::ResourceName;
use sluice_domain::resources::Kind;
use sluice_events::subject;
use sluice_state::{State, key};

use crate::arguments::connection::Connection;
use crate::output::{Format, line, show};

/// Show resources.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sluice get mirrors\n  sluice get mirror alpine -o yaml")]
pub(crate) struct Arguments {
    /// Kind of the resources, as in `mirrors`.
    kind: Kind,
    /// Name of one resource.
    name: Option<ResourceName>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Arguments {
    /// Shows resources.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let state = State::open(&connection.open().await?).await?;
        let kind = self.kind.as_str();
        let filter = match &self.name {
            Some(name) => key::resource(kind, name),
            None => format!("{}.*", subject::encode(kind)),
        };
        let entries = state.resources.list(&filter).await?;
        if let (Some(name), true) = (&self.name, entries.is_empty()) {
            anyhow::bail!(
                "{0} `{name}` not found; `sluice get {0}` lists those that exist",
                noun(self.kind)
            );
        }
        let (mut rows, mut objects) = (Vec::new(), Vec::new());
        for entry in entries {
            let resource = entry.value;
            let spec: Value =
                serde_json::from_str(&resource.json).context("a stored resource is corrupt")?;
            rows.push(vec![resource.name, summary(&spec), resource.applied_by]);
            objects
                .push(json!({ "kind": resource.kind, "revision": entry.revision, "spec": spec }));
        }
        if self.output == Format::Yaml {
            return documents(&objects);
        }
        let header = ["NAME", "SPEC", "APPLIED BY"];
        show(self.output, &header, rows, &Value::Array(objects))
    }
}

/// Returns the word for a kind in sentences and arguments, as in `mirror`.
pub(super) fn noun(kind: Kind) -> String {
    kind.as_str().to_ascii_lowercase()
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
