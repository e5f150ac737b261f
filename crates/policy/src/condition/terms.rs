//! Splits a condition into the terms that it joins by `&&`, and lists the values of the names in a term.

use cel::common::ast::{Expr, IdedExpr, LiteralValue};
use cel::{Context, Value};

/// The longest value that is shown in full.
const MAX_VALUE: usize = 80;

/// A byte of a condition that is neither in a string nor in a comment.
#[derive(Clone, Copy)]
struct Code {
    at: usize,
    byte: u8,
    depth: usize,
}

/// Splits at every `&&` that joins the condition as a whole, also within brackets around a whole term.
pub(super) fn split(text: &str) -> Vec<&str> {
    let text = text.trim();
    let code = code(text);
    let outside: Vec<Code> = code
        .iter()
        .copied()
        .filter(|code| code.depth == 0)
        .collect();
    let is_double = |pair: &[Code], sign: u8| matches!(pair, [a, b] if a.byte == sign && b.byte == sign && b.at == a.at + 1);
    // A condition that `||` or `?:` joins has one term.
    if outside.iter().any(|code| code.byte == b'?')
        || outside.windows(2).any(|pair| is_double(pair, b'|'))
    {
        return vec![text];
    }
    let cuts: Vec<usize> = outside
        .windows(2)
        .filter(|pair| is_double(pair, b'&'))
        .filter_map(|pair| pair.first().map(|code| code.at))
        .collect();
    if cuts.is_empty() {
        return match enclosed(text, &code) {
            Some(inner) => split(inner),
            None => vec![text],
        };
    }
    let starts = std::iter::once(0).chain(cuts.iter().map(|cut| cut + 2));
    let ends = cuts.iter().copied().chain(std::iter::once(text.len()));
    starts
        .zip(ends)
        .filter_map(|(start, end)| text.get(start..end))
        .flat_map(split)
        .collect()
}

/// Returns a term on one line.
pub(super) fn on_one_line(term: &str) -> String {
    let term = term.trim();
    if term.contains('\n') {
        return term.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    term.to_owned()
}

/// Returns what stands between brackets around the whole text.
fn enclosed<'t>(text: &'t str, code: &[Code]) -> Option<&'t str> {
    let (first, last) = (code.first()?, code.last()?);
    let closes_last = code.iter().filter(|code| code.depth == 0).count() == 2;
    let whole = first.at == 0 && last.at + 1 == text.len();
    (whole && closes_last && first.byte == b'(' && last.byte == b')')
        .then(|| text.get(1..last.at))
        .flatten()
}

/// Lists the bytes outside strings and comments; an opening bracket and its closing one have the depth around them.
fn code(text: &str) -> Vec<Code> {
    let mut found: Vec<Code> = Vec::new();
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = text.as_bytes().get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(b"//") {
            at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
            continue;
        }
        let [byte, ..] = *rest else { break };
        if matches!(byte, b'"' | b'\'') {
            at += string_length(rest, byte, is_raw(&found, at));
            continue;
        }
        if matches!(byte, b')' | b']' | b'}') {
            depth = depth.saturating_sub(1);
        }
        if !byte.is_ascii_whitespace() {
            found.push(Code { at, byte, depth });
        }
        if matches!(byte, b'(' | b'[' | b'{') {
            depth += 1;
        }
        at += 1;
    }
    found
}

/// Returns the length of the string literal at the start, with its quotes.
fn string_length(rest: &[u8], quote: u8, raw: bool) -> usize {
    let triple = [quote; 3];
    let close: &[u8] = if rest.starts_with(&triple) {
        &triple
    } else {
        &[quote]
    };
    let mut at = close.len();
    while let Some(rest) = rest.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(close) {
            return at + close.len();
        }
        at += if !raw && rest.starts_with(b"\\") {
            2
        } else {
            1
        };
    }
    rest.len()
}

/// Says whether the quote at this place follows the `r` of a raw string.
fn is_raw(code: &[Code], at: usize) -> bool {
    let mut before = code.iter().rev().zip(1..).map_while(|(code, distance)| {
        let adjacent = code.at + distance == at;
        (adjacent && (code.byte.is_ascii_alphanumeric() || code.byte == b'_')).then_some(code.byte)
    });
    // `r"..."` and `br"..."`, and not a longer word that ends in `r`.
    match (before.next(), before.next()) {
        (Some(b'r' | b'R'), None) => true,
        (Some(b'r' | b'R'), Some(b'b' | b'B')) => before.next().is_none(),
        _ => false,
    }
}

/// Lists the values of the names in a term, as in `scan.high = 2`, without unknown ones.
pub(super) fn values(expression: &IdedExpr, context: &Context<'_, '_>) -> Vec<String> {
    let mut leaves = Vec::new();
    collect_leaves(expression, &mut leaves);
    let mut values: Vec<String> = Vec::new();
    for (name, leaf) in leaves {
        let Ok(value) = Value::resolve(leaf, context) else {
            continue;
        };
        let text = format!("{name} = {}", value_text(&value));
        if !values.contains(&text) {
            values.push(text);
        }
    }
    values
}

fn collect_leaves<'e>(expression: &'e IdedExpr, leaves: &mut Vec<(String, &'e IdedExpr)>) {
    if let Some(name) = leaf_name(expression) {
        leaves.push((name, expression));
        return;
    }
    match &expression.expr {
        Expr::Call(call) => {
            for part in call.target.as_deref().into_iter().chain(&call.args) {
                collect_leaves(part, leaves);
            }
        }
        Expr::List(list) => {
            for element in &list.elements {
                collect_leaves(element, leaves);
            }
        }
        Expr::Select(select) => collect_leaves(&select.operand, leaves),
        Expr::Comprehension(loops) => collect_leaves(&loops.iter_range, leaves),
        _ => {}
    }
}

/// Returns how a value is named: `tag`, `scan.high`, `image.labels["team"]`.
fn leaf_name(expression: &IdedExpr) -> Option<String> {
    match &expression.expr {
        Expr::Ident(name) => Some(name.clone()),
        Expr::Select(select) if !select.test => {
            Some(format!("{}.{}", leaf_name(&select.operand)?, select.field))
        }
        Expr::Call(call) if call.func_name == cel::common::ast::operators::INDEX => {
            let [operand, key] = call.args.as_slice() else {
                return None;
            };
            let Expr::Literal(LiteralValue::String(key)) = &key.expr else {
                return None;
            };
            Some(format!("{}[\"{}\"]", leaf_name(operand)?, key.inner()))
        }
        _ => None,
    }
}

fn value_text(value: &Value) -> String {
    let text = match value {
        Value::Int(number) => number.to_string(),
        Value::UInt(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Null => "null".to_owned(),
        Value::String(text) => format!("\"{text}\""),
        Value::Timestamp(at) => at.to_utc().format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Value::Duration(duration) => duration_text(*duration),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(value_text).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => {
            let mut entries: Vec<String> = map
                .map
                .iter()
                .map(|(key, value)| format!("{}: {}", value_text(&key.into()), value_text(value)))
                .collect();
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        _ => "(a value)".to_owned(),
    };
    match text.char_indices().nth(MAX_VALUE) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// Writes a duration as hours, minutes and seconds, as `duration()` reads it.
fn duration_text(duration: chrono::TimeDelta) -> String {
    let seconds = duration.num_seconds();
    let sign = if seconds < 0 { "-" } else { "" };
    let seconds = seconds.unsigned_abs();
    match (seconds / 3600, seconds % 3600 / 60, seconds % 60) {
        (0, 0, seconds) => format!("{sign}{seconds}s"),
        (0, minutes, seconds) => format!("{sign}{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}
