//! Conditions in CEL: compiled once with every name and type checked, and evaluated with the result of each term.
//!
//! The only module that names the `cel` crate. Its parser can overflow the stack, so text is bounded first and parsed
//! on a thread of its own; see `limits`.

mod check;
pub mod dtr_rules;
mod facts;
mod functions;
mod limits;
mod schema;
mod terms;
mod types;

use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cel::common::ast::IdedExpr;
use cel::{Context, Env, ExecutionError, Program, Value};

pub use self::facts::{Facts, ImageFacts};
pub use self::schema::{Reference, Scope, function_reference, variable_reference};

/// The longest error text that is kept; the library prints whole values into its messages.
const MAX_ERROR: usize = 200;

/// A checked condition. Evaluating it cannot fail, only be undetermined.
pub struct CompiledCondition {
    text: String,
    scope: Scope,
    environment: Arc<Env>,
    program: Program,
    terms: Vec<(String, Program)>,
    paths: BTreeSet<String>,
}

/// The result of a condition, with every term that it joins by `&&`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionResult {
    /// The result.
    pub outcome: ConditionOutcome,
    /// The terms, in the order in which they are written.
    pub terms: Vec<Term>,
}

/// The result of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConditionOutcome {
    /// The condition holds.
    True,
    /// The condition does not hold.
    False,
    /// The evaluation ended in an error, or needs a fact that is missing: neither promotes, deletes nor withdraws.
    Undetermined(String),
}

/// One term of a condition, with the values of the names in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The term as written.
    pub text: String,
    /// Whether it holds; `None` where it is undetermined.
    pub passed: Option<bool>,
    /// The values of its names, as in `scan.high = 2`.
    pub values: Vec<String>,
    /// Why it is undetermined.
    pub error: Option<String>,
}

impl CompiledCondition {
    /// Compiles a condition: its names, types and constant arguments are checked here and not when it runs.
    ///
    /// # Errors
    /// Every problem, each with its column and what to write instead.
    pub fn new(text: &str, scope: Scope) -> Result<Self, Vec<String>> {
        limits::on_own_stack(|| {
            limits::check_text(text).map_err(|problem| vec![problem])?;
            Self::compile(text, scope)
        })
    }

    /// Compiles a condition that was made of DTR's rules, whose lists of values may be long.
    ///
    /// # Errors
    /// As [`CompiledCondition::new`].
    pub fn of_rules(text: &str, scope: Scope) -> Result<Self, Vec<String>> {
        limits::on_own_stack(|| {
            limits::check_rules(text).map_err(|problem| vec![problem])?;
            Self::compile(text, scope)
        })
    }

    fn compile(text: &str, scope: Scope) -> Result<Self, Vec<String>> {
        let environment = functions::environment().map_err(|error| vec![error])?;
        let program = parse(&environment, text)?;
        limits::check_depth(program.expression()).map_err(|problem| vec![problem])?;
        let paths = check::check(&program, &environment, scope)?;
        let mut terms = Vec::new();
        for term in terms::split(text) {
            // Each term is a condition by itself; should splitting ever cut wrongly, the whole is the only term.
            match parse(&environment, term) {
                Ok(program) if check::check(&program, &environment, scope).is_ok() => {
                    terms.push((terms::on_one_line(term), program));
                }
                _ => {
                    terms.clear();
                    break;
                }
            }
        }
        if terms.is_empty() {
            terms.push((terms::on_one_line(text), parse(&environment, text)?));
        }
        Ok(Self {
            text: text.to_owned(),
            scope,
            environment,
            program,
            terms,
            paths,
        })
    }

    /// Returns the condition as written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Says whether the condition names this value, as in `scan.unknown`, or anything below it, as in `scan`.
    #[must_use]
    pub fn names(&self, path: &str) -> bool {
        self.paths.contains(path)
    }

    /// Evaluates the condition. Each term is evaluated by itself too, so that the values of all terms are known.
    #[must_use]
    pub fn evaluate(&self, facts: &Facts<'_>) -> ConditionResult {
        let mut context = Context::with_env(Arc::clone(&self.environment));
        for (name, value) in schema::values(self.scope, facts) {
            context.add_variable_from_value(name, value);
        }
        let outcome = match run(self.program.expression(), &context) {
            Ok(true) => ConditionOutcome::True,
            Ok(false) => ConditionOutcome::False,
            Err(reason) => ConditionOutcome::Undetermined(reason),
        };
        let terms = self
            .terms
            .iter()
            .map(|(text, program)| {
                let result = run(program.expression(), &context);
                Term {
                    text: text.clone(),
                    passed: result.as_ref().ok().copied(),
                    values: terms::values(program.expression(), &context),
                    error: result.err(),
                }
            })
            .collect();
        ConditionResult { outcome, terms }
    }
}

impl fmt::Debug for CompiledCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledCondition")
            .field("text", &self.text)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

fn parse(environment: &Env, text: &str) -> Result<Program, Vec<String>> {
    environment.compile(text).map_err(|errors| {
        // Their own Display panics for columns over 65,535; the parts do not.
        errors
            .errors
            .iter()
            .take(3)
            .map(|error| {
                let (line, column) = error.pos;
                format!("line {line}, column {column}: {}", syntax_fault(&error.msg))
            })
            .collect()
    })
}

/// Words the parser's messages for the mistakes that people make most.
fn syntax_fault(message: &str) -> String {
    let message = message.trim_start_matches("Syntax error: ");
    if message.starts_with("token recognition error at: '=") {
        return "a single `=` does not compare; write `==`".to_owned();
    }
    if message.contains("input 'and'") || message.contains("input 'or'") {
        return "join terms with `&&` or `||`".to_owned();
    }
    if message.contains("input '<EOF>'") {
        return "it ends where a value is expected; write the rest, as in `scan.high == 0`"
            .to_owned();
    }
    if message.starts_with("token recognition error at: '&") {
        return "join terms with `&&`".to_owned();
    }
    shorten(message)
}

/// Evaluates to a truth value; a panic in the library is an error like any other.
fn run(expression: &IdedExpr, context: &Context<'_, '_>) -> Result<bool, String> {
    match catch_unwind(AssertUnwindSafe(|| Value::resolve(expression, context))) {
        Ok(Ok(Value::Bool(truth))) => Ok(truth),
        Ok(Ok(_)) => Err("the result is neither true nor false".to_owned()),
        Ok(Err(error)) => Err(explain(&error)),
        Err(_) => Err("the evaluator failed on it".to_owned()),
    }
}

/// Explains a failed evaluation in the words of a policy.
fn explain(error: &ExecutionError) -> String {
    match error {
        ExecutionError::UndeclaredReference(name) if name.as_str() == "scan" => {
            "there is no usable scan result".to_owned()
        }
        ExecutionError::UndeclaredReference(name) => format!("`{name}` is not known"),
        ExecutionError::NoSuchKey(key) => format!("there is no value for `{key}`"),
        ExecutionError::FunctionError { function, message } => {
            shorten(&format!("`{function}` failed: {message}"))
        }
        other => shorten(&other.to_string()),
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(MAX_ERROR).collect()
}

#[cfg(test)]
mod tests;
