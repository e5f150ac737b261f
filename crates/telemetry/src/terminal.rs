//! Escaping of text for terminals: text of peers cannot control a terminal, hide or reorder text, or imitate a line of
//! Sluice.
//!
//! Characters are escaped as in JSON, so a JSON document keeps its meaning.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// How line breaks and tabs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaks {
    /// Escaped: the text is one line, or one cell of a table.
    Escape,
    /// Kept: Sluice laid out the text.
    Keep,
    /// Kept, with every line after the first indented, so that none looks like another message.
    Indent,
}

/// Says whether a character controls a terminal, is invisible, or changes the order of others.
#[must_use]
pub const fn is_unsafe(c: char) -> bool {
    matches!(c,
        // C0, DEL, C1.
        '\0'..='\x1f' | '\x7f'..='\u{9f}'
        // Soft hyphen, grapheme joiner, fillers, and invisible characters of single scripts.
        | '\u{ad}' | '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{3164}' | '\u{ffa0}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        // Marks, embeddings, overrides and isolates of direction; characters without width; separators of lines.
        | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        // Variation selectors, byte order mark, annotations, tags.
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

/// Escapes unsafe characters.
#[must_use]
pub fn escape(text: &str, breaks: Breaks) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match (c, breaks) {
            ('\n' | '\t', Breaks::Keep) | ('\t', Breaks::Indent) => escaped.push(c),
            ('\n', Breaks::Indent) => escaped.push_str("\n    "),
            _ if is_unsafe(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a string cannot fail.
                    write!(escaped, "\\u{unit:04x}").ok();
                }
            }
            _ => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// Writes escaped text to `sink`; bytes that are not UTF-8 are replaced.
///
/// Each call of [`Write::write`] is one message: a character that is cut between two calls is replaced, too.
#[derive(Debug)]
pub struct EscapingWriter<W> {
    sink: W,
    breaks: Breaks,
}

impl<W: Write> EscapingWriter<W> {
    /// Makes a writer.
    pub const fn new(sink: W, breaks: Breaks) -> Self {
        Self { sink, breaks }
    }
}

impl<W: Write> Write for EscapingWriter<W> {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(message);
        // The line break at the end comes from the caller.
        let (body, end) = match text.strip_suffix('\n') {
            Some(body) => (body, "\n"),
            None => (&*text, ""),
        };
        self.sink.write_all(escape(body, self.breaks).as_bytes())?;
        self.sink.write_all(end.as_bytes())?;
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_hides_or_reorders_is_written_out() {
        for (text, escaped) in [
            ("\x1b[2J", "\\u001b[2J"),
            ("\u{9b}2J", "\\u009b2J"),
            ("a\rb\x08c\x7f", "a\\u000db\\u0008c\\u007f"),
            ("\u{202e}gpj\u{2066}", "\\u202egpj\\u2066"),
            ("a\u{200b}b\u{feff}", "a\\u200bb\\ufeff"),
            ("\u{e0041}", "\\udb40\\udc41"),
            ("Größe 東京 ok", "Größe 東京 ok"),
        ] {
            for breaks in [Breaks::Escape, Breaks::Keep, Breaks::Indent] {
                assert_eq!(escape(text, breaks), escaped);
            }
        }
    }

    #[test]
    fn a_line_break_makes_no_line_of_ours() {
        let text = "refused\nerror: all is well\ta";
        assert_eq!(
            escape(text, Breaks::Escape),
            "refused\\u000aerror: all is well\\u0009a"
        );
        assert_eq!(escape(text, Breaks::Keep), text);
        assert_eq!(
            escape(text, Breaks::Indent),
            "refused\n    error: all is well\ta"
        );
    }

    #[test]
    fn a_message_ends_with_its_own_break_and_holds_no_bytes_but_text() {
        let mut written = Vec::new();
        let mut writer = EscapingWriter::new(&mut written, Breaks::Indent);
        writer.write_all(b"a\nb\x9bc\n").unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), "a\n    b\u{fffd}c\n");
    }
}
