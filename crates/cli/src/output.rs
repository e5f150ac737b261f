//! Where the command writes: results to stdout, complaints to stderr.

use std::io::{ErrorKind, IsTerminal as _, Write as _};

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
    /// For programs and people.
    Yaml,
}

/// A table with what stands above it.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) header: &'static [&'static str],
    pub(crate) rows: Vec<Vec<String>>,
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
        Format::Yaml => line(serde_saphyr::to_string(objects)?.trim_end()),
        Format::Table => table(header, rows),
    }
}

/// Shows several tables with their titles, those without rows left out, or the objects.
pub(crate) fn show_sections(
    format: Format,
    sections: Vec<Section>,
    objects: &Value,
) -> anyhow::Result<()> {
    if format != Format::Table {
        return show(format, &[], Vec::new(), objects);
    }
    let filled = sections
        .into_iter()
        .filter(|section| !section.rows.is_empty());
    for (number, section) in filled.enumerate() {
        if number > 0 {
            line("")?;
        }
        line(section.title)?;
        table(section.header, section.rows)?;
    }
    Ok(())
}

fn table(header: &[&str], rows: Vec<Vec<String>>) -> anyhow::Result<()> {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.iter().map(ToString::to_string).collect::<Vec<_>>());
    table.add_rows(rows);
    line(&table.trim_fmt())
}

/// Writes a line.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// Shows how far something is, on a line that the next call replaces; only where a person looks.
pub(crate) fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // Whoever closed the terminal does not look.
        write!(stderr, "\r\x1b[K{text}")
            .and_then(|()| stderr.flush())
            .ok();
    }
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

/// Says something beside the result.
#[expect(
    clippy::print_stderr,
    reason = "this is the command's place for notes beside its results"
)]
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// Writes text as it is.
pub(crate) fn text(text: &str) -> anyhow::Result<()> {
    Ok(write!(std::io::stdout(), "{text}")?)
}
