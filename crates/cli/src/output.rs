//! Where the command writes: results to stdout, complaints to stderr.

use std::io::{ErrorKind, Write as _};

use comfy_table::{Table, presets};
use serde_json::Value;

/// How results are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Shows rows as a table, or the objects as JSON.
pub(crate) fn show(
    format: Format,
    header: &[&str],
    rows: Vec<Vec<String>>,
    objects: &Value,
) -> anyhow::Result<()> {
    match format {
        Format::Json => line(&serde_json::to_string_pretty(objects)?),
        Format::Table => {
            let mut table = Table::new();
            table
                .load_style(presets::NOTHING)
                .set_header(header.iter().map(ToString::to_string).collect::<Vec<_>>());
            table.add_rows(rows);
            line(&table.trim_fmt())
        }
    }
}

/// Writes a line.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// Says whether a command ended because its reader has seen enough, which is no failure.
pub(crate) fn is_enough(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Says what went wrong.
#[expect(
    clippy::print_stderr,
    reason = "this is the command's place for complaints"
)]
pub(crate) fn complain(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
