//! Bounds on the text of a condition, so that no text can overflow a stack or run for long.
//!
//! Measured with cel 0.15 in debug builds: a bracket costs its parser up to 200 KiB of stack, a link of a chain such as
//! `1+1+1` about 2 KiB. So brackets are bounded before parsing, chains by the length, and the depth of what was parsed
//! so that any thread may evaluate and drop it.

use std::thread;

use cel::common::ast::{EntryExpr, Expr, IdedExpr};

/// The longest condition that a person writes, in bytes.
const MAX_LENGTH: usize = 4096;

/// The longest condition that is made of DTR's rules, which have long lists but no brackets inside each other, and no loops.
const MAX_LENGTH_OF_RULES: usize = 256 << 10;

/// The most opening brackets, those in strings included: counting them all needs no lexer that could be fooled.
const MAX_BRACKETS: usize = 48;

/// The most commas, and so elements of lists: nested loops over them stay short, and what they build small.
const MAX_COMMAS: usize = 256;

/// The deepest expression. Long lists of `&&` and `||` are balanced by the parser and stay flat.
const MAX_DEPTH: usize = 48;

/// The stack of the thread that parses; only address space until it is used.
const STACK_BYTES: usize = 16 << 20;

/// Runs the parser where its recursion has room, and turns a panic in it into a problem.
pub(super) fn on_own_stack<T: Send>(
    work: impl FnOnce() -> Result<T, Vec<String>> + Send,
) -> Result<T, Vec<String>> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("condition".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|error| vec![format!("no thread to compile the condition on: {error}")])?;
        worker
            .join()
            .unwrap_or_else(|_| Err(vec!["the parser failed on this condition".to_owned()]))
    })
}

/// Refuses text made of rules that would take long to parse.
pub(super) fn check_rules(text: &str) -> Result<(), String> {
    if text.len() > MAX_LENGTH_OF_RULES {
        return Err(format!(
            "the rules are {} bytes long as a condition, {MAX_LENGTH_OF_RULES} are allowed; write several policies, or `matches`",
            text.len()
        ));
    }
    Ok(())
}

/// Refuses text that could overflow the parser.
pub(super) fn check_text(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err(
            "the condition is empty; leave it out where every scanned image may pass".to_owned(),
        );
    }
    if text.len() > MAX_LENGTH {
        let length = text.len();
        return Err(format!(
            "the condition is {length} bytes long, {MAX_LENGTH} are allowed"
        ));
    }
    let count = |signs: &[u8]| text.bytes().filter(|b| signs.contains(b)).count();
    let (brackets, commas) = (count(b"([{"), count(b","));
    if brackets > MAX_BRACKETS {
        return Err(format!(
            "the condition has {brackets} opening brackets, {MAX_BRACKETS} are allowed; write several policies, or `in` with a list"
        ));
    }
    if commas > MAX_COMMAS {
        return Err(format!(
            "the condition has {commas} commas, {MAX_COMMAS} are allowed; write several policies, or `matches`"
        ));
    }
    Ok(())
}

/// Refuses an expression too deep to be evaluated on any thread.
pub(super) fn check_depth(expression: &IdedExpr) -> Result<(), String> {
    let depth = depth(expression);
    if depth > MAX_DEPTH {
        return Err(format!(
            "the condition is {depth} levels deep, {MAX_DEPTH} are allowed; a chain of `+` counts one level per link"
        ));
    }
    Ok(())
}

fn depth(expression: &IdedExpr) -> usize {
    let children: Vec<&IdedExpr> = match &expression.expr {
        Expr::Call(call) => call
            .target
            .as_deref()
            .into_iter()
            .chain(&call.args)
            .collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map
            .entries
            .iter()
            .flat_map(|entry| entry_parts(&entry.expr))
            .collect(),
        Expr::Struct(literal) => literal
            .entries
            .iter()
            .flat_map(|entry| entry_parts(&entry.expr))
            .collect(),
        Expr::Comprehension(loops) => vec![
            &loops.iter_range,
            &loops.accu_init,
            &loops.loop_cond,
            &loops.loop_step,
            &loops.result,
        ],
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
    };
    1 + children.into_iter().map(depth).max().unwrap_or(0)
}

fn entry_parts(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}
