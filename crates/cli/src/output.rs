//! Results to standard output, errors and notes to standard error, both escaped.
//!
//! Only this module writes to either (`.clippy.toml`), so no text of a registry or server can control the terminal.

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::process::ExitCode;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::error::ContextValue;
use comfy_table::{Table, presets};
use serde_json::Value;
use sluice_telemetry::terminal::{Breaks, escape, is_unsafe};

/// The format of results.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A table.
    #[default]
    Table,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// A table with a title.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    pub(crate) header: &'static [&'static str],
    pub(crate) rows: Vec<Vec<String>>,
}

/// Standard output or standard error.
#[derive(Debug)]
enum Stream {
    Out,
    Error,
}

impl Stream {
    /// Writes escaped text.
    #[expect(
        clippy::disallowed_methods,
        reason = "the only place where the command writes"
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

/// Formats YAML; or JSON, which is YAML too, if the text has characters that YAML cannot escape everywhere.
fn yaml(objects: &Value) -> anyhow::Result<String> {
    let text = serde_saphyr::to_string(objects)?;
    if text.contains(|c| is_unsafe(c) && c != '\n') {
        return Ok(serde_json::to_string_pretty(objects)?);
    }
    Ok(text)
}

/// Shows the tables that have rows with their titles, or the objects.
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

/// Formats a table; a cell is escaped before its width is measured.
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
pub(crate) fn count(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{end}")
}

/// Formats a time in seconds.
pub(crate) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Formats a time in milliseconds.
pub(crate) fn time_millis(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Formats a size in kB or MB.
pub(crate) fn size(bytes: u64) -> String {
    let (unit, name) = if bytes < 1_000_000 {
        (1_000, "kB")
    } else {
        (1_000_000, "MB")
    };
    format!("{}.{} {name}", bytes / unit, bytes % unit / (unit / 10))
}

/// Escapes text for one line, including its line breaks.
pub(crate) fn one_line(text: &str) -> String {
    escape(text, Breaks::Escape).into_owned()
}

/// Writes one line; line breaks in the text are escaped.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    Ok(Stream::Out.write(text, Breaks::Escape, "\n")?)
}

/// Writes several lines.
pub(crate) fn lines(text: &str) -> anyhow::Result<()> {
    Ok(Stream::Out.write(text, Breaks::Keep, "\n")?)
}

/// Shows progress on a terminal, on a line that the next call replaces.
#[expect(
    clippy::disallowed_methods,
    reason = "writes an escape sequence; the text is escaped"
)]
pub(crate) fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // A closed terminal is no error.
        write!(stderr, "\r\x1b[K{}", one_line(text))
            .and_then(|()| stderr.flush())
            .ok();
    }
}

/// Tells whether the reader of the output closed it, which is not a failure.
pub(crate) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Prints an error to standard error.
pub(crate) fn print_error(error: &anyhow::Error) {
    let text = format!("error: {error:#}");
    Stream::Error.write(&text, Breaks::Indent, "\n").ok();
}

/// Shows help, or an error of the arguments.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let mut text = error.render().to_string();
    // Line breaks of the text are those of clap; those in a quoted argument are escaped.
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

/// Prints a note to standard error.
pub(crate) fn note(text: &str) {
    Stream::Error.write(text, Breaks::Indent, "\n").ok();
}

/// Writes text without a line break at its end.
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
            let shown = layout(&["A", "B"], rows);
            prop_assert!(!shown.contains(|c| is_unsafe(c) && c != '\n'));
            // A row of empty cells is an empty line, the last one too.
            prop_assert_eq!(shown.split('\n').count(), count + 1);
        }

        #[test]
        fn json_and_yaml_stay_what_they_are(text: String) {
            let object = serde_json::json!({ "reason": text });
            let json = serde_json::to_string_pretty(&object).unwrap();
            let shown = escape(&json, Breaks::Keep);
            prop_assert!(!shown.contains(|c| is_unsafe(c) && c != '\n'));
            prop_assert_eq!(&serde_json::from_str::<Value>(&shown).unwrap(), &object);
            let shown = yaml(&object).unwrap();
            let shown = escape(&shown, Breaks::Keep);
            prop_assert!(!shown.contains(|c| is_unsafe(c) && c != '\n'));
            prop_assert_eq!(&serde_saphyr::from_str::<Value>(&shown).unwrap(), &object);
        }
    }
}
