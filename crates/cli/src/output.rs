//! Where the command writes: results to stdout, complaints to stderr, both escaped.
//!
//! Nothing else of the command writes to either (`.clippy.toml`), so that no name, reason or answer of a peer can steer
//! the terminal of whoever reads it.

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::error::ContextValue;
use comfy_table::{Table, presets};
use serde_json::Value;
use sluice_telemetry::terminal::{Breaks, escape, is_unsafe};

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

/// One of the two streams that the command writes to.
#[derive(Debug)]
enum Stream {
    Out,
    Error,
}

impl Stream {
    /// Writes text, escaped; the one place where the command does.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where everything is written, escaped"
    )]
    fn write(&self, text: &str, breaks: Breaks, end: &str) -> std::io::Result<()> {
        let text = escape(text, breaks);
        match self {
            Self::Out => write!(std::io::stdout(), "{text}{end}"),
            Self::Error => write!(std::io::stderr(), "{text}{end}"),
        }
    }
}

/// Shows rows as a table, or the objects as JSON.
pub(crate) fn show(
    format: Format,
    header: &[&str],
    rows: Vec<Vec<String>>,
    objects: &Value,
) -> anyhow::Result<()> {
    match format {
        Format::Json => lines(&serde_json::to_string_pretty(objects)?),
        Format::Yaml => lines(yaml(objects)?.trim_end()),
        Format::Table => table(header, rows),
    }
}

/// Writes YAML; where that would hold something unsafe, which it cannot escape everywhere, JSON, which is YAML too.
fn yaml(objects: &Value) -> anyhow::Result<String> {
    let text = serde_saphyr::to_string(objects)?;
    if text.contains(|c| is_unsafe(c) && c != '\n') {
        return Ok(serde_json::to_string_pretty(objects)?);
    }
    Ok(text)
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
    lines(&layout(header, rows))
}

/// Lays out a table; a cell is escaped before its width is measured.
fn layout(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.iter().map(ToString::to_string).collect::<Vec<_>>());
    let cells = |row: Vec<String>| row.into_iter().map(|cell| one_line(&cell));
    table.add_rows(rows.into_iter().map(cells));
    table.trim_fmt()
}

/// Formats a number with its noun, as in `1 tag` and `2 tags`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{end}")
}

/// Escapes what is shown as part of a line, line breaks among it.
pub(crate) fn one_line(text: &str) -> String {
    escape(text, Breaks::Escape).into_owned()
}

/// Writes one line, whatever is in it.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    Ok(Stream::Out.write(text, Breaks::Escape, "\n")?)
}

/// Writes several lines, as we have laid them out.
pub(crate) fn lines(text: &str) -> anyhow::Result<()> {
    Ok(Stream::Out.write(text, Breaks::Keep, "\n")?)
}

/// Shows how far something is, on a line that the next call replaces; only where a person looks.
#[expect(
    clippy::disallowed_methods,
    reason = "the line is replaced by a sequence of ours; the text is escaped"
)]
pub(crate) fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // Whoever closed the terminal does not look.
        write!(stderr, "\r\x1b[K{}", one_line(text))
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

/// Says what went wrong; where the terminal is gone, nobody hears it.
pub(crate) fn print_error(error: &anyhow::Error) {
    let text = format!("error: {error:#}");
    Stream::Error.write(&text, Breaks::Indent, "\n").ok();
}

/// Shows help, or what is wrong with arguments.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let mut text = error.render().to_string();
    // The layout is clap's own, but not what breaks the lines of an argument that it quotes.
    for (_, value) in error.context() {
        if let ContextValue::String(quoted) = value {
            text = text.replace(quoted.as_str(), &one_line(quoted));
        }
    }
    let stream = if error.use_stderr() {
        Stream::Error
    } else {
        Stream::Out
    };
    stream.write(&text, Breaks::Keep, "").ok();
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Says something beside the result.
pub(crate) fn note(text: &str) {
    Stream::Error.write(text, Breaks::Indent, "\n").ok();
}

/// Writes text as we have laid it out, without a line break at its end.
pub(crate) fn text(text: &str) -> anyhow::Result<()> {
    Ok(Stream::Out.write(text, Breaks::Keep, "")?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_table_has_a_line_for_each_row_and_nothing_that_is_unsafe(
            rows in prop::collection::vec(prop::collection::vec(any::<String>(), 2), 1..5)
        ) {
            let count = rows.len();
            let told = layout(&["A", "B"], rows);
            prop_assert!(!told.contains(|c| is_unsafe(c) && c != '\n'));
            // A row of empty cells is an empty line, the last one too.
            prop_assert_eq!(told.split('\n').count(), count + 1);
        }

        #[test]
        fn json_and_yaml_stay_what_they_are(text: String) {
            let object = serde_json::json!({ "reason": text });
            let json = serde_json::to_string_pretty(&object).unwrap();
            let told = escape(&json, Breaks::Keep);
            prop_assert!(!told.contains(|c| is_unsafe(c) && c != '\n'));
            prop_assert_eq!(&serde_json::from_str::<Value>(&told).unwrap(), &object);
            let told = yaml(&object).unwrap();
            let told = escape(&told, Breaks::Keep);
            prop_assert!(!told.contains(|c| is_unsafe(c) && c != '\n'));
            prop_assert_eq!(&serde_saphyr::from_str::<Value>(&told).unwrap(), &object);
        }
    }
}
