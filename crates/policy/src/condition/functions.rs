//! The functions that conditions have besides CEL's own: `matches`, `glob` and `semver`.
//!
//! The library's own `matches` compiles its pattern on every call and without a size limit, so it is not built in.

use std::cell::RefCell;
use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};
use std::thread::LocalKey;

use cel::common::types::{CelBool, CelString};
use cel::{DeclarationError, Env, ExecutionError};
use regex::{Regex, RegexBuilder};
use sluice_domain::Pattern;

use crate::tags::range::Range;
use crate::tags::version::TagVersion;

/// The longest regular expression, in bytes.
const MAX_PATTERN: usize = 512;

/// The largest compiled regular expression, in bytes.
const MAX_COMPILED: usize = 256 << 10;

/// How many compiled patterns of one sort a thread keeps.
const CACHED: usize = 1024;

static ENVIRONMENT: LazyLock<Result<Arc<Env>, DeclarationError>> = LazyLock::new(|| {
    let mut environment = Env::stdlib().with_optional_support(false);
    cel::add_member_overload!(environment, fn matches: (CelString<'_>, CelString<'_>) -> Result<CelBool>)?;
    cel::add_member_overload!(environment, fn glob: (CelString<'_>, CelString<'_>) -> Result<CelBool>)?;
    cel::add_member_overload!(environment, fn semver: (CelString<'_>, CelString<'_>) -> Result<CelBool>)?;
    Ok(Arc::new(environment))
});

type Cache<T> = RefCell<HashMap<String, T>>;

thread_local! {
    static EXPRESSIONS: Cache<Regex> = RefCell::default();
    static PATTERNS: Cache<Pattern> = RefCell::default();
    static RANGES: Cache<Range> = RefCell::default();
}

/// Returns the environment that every condition is compiled and run with.
pub(super) fn environment() -> Result<Arc<Env>, String> {
    ENVIRONMENT.clone().map_err(|error| error.to_string())
}

/// Returns what is wrong with a constant argument of one of these functions.
pub(super) fn argument_error(function: &str, argument: &str) -> Option<String> {
    match function {
        "matches" => expression(argument).err(),
        "glob" => parsed::<Pattern>(argument).err(),
        "semver" => parsed::<Range>(argument).err(),
        _ => None,
    }
}

fn matches(this: &CelString<'_>, argument: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    cached(&EXPRESSIONS, argument.inner(), expression, |regex| {
        regex.is_match(this.inner())
    })
    .map_err(|error| ExecutionError::function_error("matches", error))
}

fn glob(this: &CelString<'_>, argument: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    cached(&PATTERNS, argument.inner(), parsed::<Pattern>, |pattern| {
        pattern.matches(this.inner())
    })
    .map_err(|error| ExecutionError::function_error("glob", error))
}

/// Says whether a tag is a version in a range.
fn semver(this: &CelString<'_>, argument: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    let version = TagVersion::parse(this.inner());
    cached(&RANGES, argument.inner(), parsed::<Range>, |range| {
        version
            .as_ref()
            .is_some_and(|version| range.contains(version))
    })
    .map_err(|error| ExecutionError::function_error("semver", error))
}

fn cached<T>(
    cache: &'static LocalKey<Cache<T>>,
    text: &str,
    compile: impl FnOnce(&str) -> Result<T, String>,
    test: impl FnOnce(&T) -> bool,
) -> Result<CelBool, String> {
    cache.with_borrow_mut(|cache| {
        if let Some(compiled) = cache.get(text) {
            return Ok(CelBool::from(test(compiled)));
        }
        let compiled = compile(text)?;
        let result = CelBool::from(test(&compiled));
        if cache.len() >= CACHED {
            cache.clear();
        }
        cache.insert(text.to_owned(), compiled);
        Ok(result)
    })
}

fn expression(text: &str) -> Result<Regex, String> {
    if text.len() > MAX_PATTERN {
        return Err(format!(
            "the regular expression is longer than {MAX_PATTERN} bytes"
        ));
    }
    RegexBuilder::new(text)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_COMPILED)
        .nest_limit(32)
        .build()
        .map_err(|error| last_line(&error.to_string()))
}

fn parsed<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// A regex error draws the pattern and a caret over several lines; its last line says what is wrong.
fn last_line(message: &str) -> String {
    let line = message.lines().last().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    format!("bad regular expression: {line}")
}
