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

/// Writes a line; a reader that has seen enough ends the command quietly.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Says what went wrong.
#[expect(
    clippy::print_stderr,
    reason = "this is the command's place for complaints"
)]
pub(crate) fn complain(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
