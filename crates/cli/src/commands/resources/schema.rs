//! `sluice schema`: the JSON Schema of resource files.

use clap::Args;

use crate::arguments::connection::Connection;
use crate::output::lines;

/// Print the JSON Schema of resource files, for editors.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sluice schema > sluice.schema.json")]
pub(crate) struct Arguments {}

impl Arguments {
    /// Prints the schema.
    pub(crate) fn run(self, _: &Connection) -> anyhow::Result<()> {
        let schema = sluice_domain::resources::json_schema();
        lines(&serde_json::to_string_pretty(&schema)?)
    }
}
