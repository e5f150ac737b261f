//! Checks names and types of a parsed condition.
//!
//! The library has no checker: a typo would be an error only when it runs, and hidden wherever `&&` or `||` skips it.

use std::collections::BTreeSet;
use std::sync::Arc;

use cel::common::ast::operators as op;
use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SelectExpr,
};
use cel::{Context, Env, Program, Value};

use super::functions;
use super::schema::{FUNCTIONS, PATTERN_METHODS, Scope, TEXT_METHODS, fields, variables};
use super::types::Type;

/// How deep loops may be nested: two over the most labels are still quick.
const MAX_LOOPS: usize = 2;

/// Checks a condition and returns the paths that it names, as in `scan` and `scan.unknown`.
pub(super) fn check(
    program: &Program,
    environment: &Arc<Env>,
    scope: Scope,
) -> Result<BTreeSet<String>, Vec<String>> {
    let mut checker = Checker {
        environment,
        scope,
        locals: Vec::new(),
        loops: 0,
        paths: BTreeSet::new(),
        problems: Vec::new(),
    };
    let found = checker.type_of(program.expression());
    if !found.fits(&Type::Bool) {
        let message = format!(
            "a condition must be true or false, and this is {found}; compare it, as in `scan.high == 0`"
        );
        checker.problem(program.expression(), message);
    }
    if checker.problems.is_empty() {
        return Ok(checker.paths);
    }
    let place = |id| {
        let offset = program
            .source_info()
            .offset_for(id)
            .map_or(0, |(start, _)| start);
        place(
            &program.source_info().source,
            usize::try_from(offset).unwrap_or(0),
        )
    };
    Err(checker
        .problems
        .into_iter()
        .map(|(id, message)| format!("{}: {message}", place(id)))
        .collect())
}

struct Checker<'a> {
    environment: &'a Arc<Env>,
    scope: Scope,
    locals: Vec<(String, Type)>,
    loops: usize,
    paths: BTreeSet<String>,
    problems: Vec<(u64, String)>,
}

impl Checker<'_> {
    /// Notes a problem; its type fits every other one, so that one problem causes no more.
    fn problem(&mut self, at: &IdedExpr, message: String) -> Type {
        self.problems.push((at.id, message));
        Type::Any
    }

    fn expect(&mut self, expression: &IdedExpr, wanted: &Type) {
        let found = self.type_of(expression);
        if !found.fits(wanted) {
            self.problem(expression, format!("expected {wanted}, found {found}"));
        }
    }

    fn type_of(&mut self, expression: &IdedExpr) -> Type {
        match &expression.expr {
            Expr::Literal(literal) => literal_type(literal),
            Expr::Ident(name) => self.variable(expression, name),
            Expr::Select(select) => self.field(expression, select),
            Expr::List(list) => {
                let mut element = Type::Any;
                for item in &list.elements {
                    element = element.joined(self.type_of(item));
                }
                Type::List(Box::new(element))
            }
            Expr::Map(map) => {
                let (mut key, mut value) = (Type::Any, Type::Any);
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        key = key.joined(self.type_of(&entry.key));
                        value = value.joined(self.type_of(&entry.value));
                    }
                }
                Type::Map(Box::new(key), Box::new(value))
            }
            Expr::Struct(literal) => {
                let message = format!("`{}{{...}}` is not supported", literal.type_name);
                self.problem(expression, message)
            }
            Expr::Comprehension(loops) => self.comprehension(expression, loops),
            Expr::Call(call) => match &call.target {
                Some(target) => self.method(expression, call, target),
                None => self.call(expression, call),
            },
            Expr::Unspecified => self.problem(expression, "an expression is missing".to_owned()),
        }
    }

    fn variable(&mut self, at: &IdedExpr, name: &str) -> Type {
        if let Some((_, local)) = self.locals.iter().rev().find(|(local, _)| local == name) {
            return local.clone();
        }
        let known = variables(self.scope);
        if let Some((_, found)) = known.iter().find(|(known, _)| *known == name) {
            self.paths.insert(name.to_owned());
            return found.clone();
        }
        let hint = hint(name, known.iter().map(|(known, _)| *known));
        self.problem(at, format!("unknown name `{name}`{hint}"))
    }

    fn field(&mut self, at: &IdedExpr, select: &SelectExpr) -> Type {
        let name = select.field.as_str();
        let found = match self.type_of(&select.operand) {
            Type::Object(path) => {
                self.paths.insert(format!("{path}.{name}"));
                let fields = fields(path);
                match fields.iter().find(|(field, _)| *field == name) {
                    Some((_, found)) => found.clone(),
                    None => {
                        let hint = hint(name, fields.iter().map(|(field, _)| *field));
                        self.problem(at, format!("`{path}` has no field `{name}`{hint}"))
                    }
                }
            }
            Type::Map(_, value) => *value,
            Type::Any => Type::Any,
            other => self.problem(at, format!("{other} has no field `{name}`")),
        };
        if select.test { Type::Bool } else { found }
    }

    /// Loops: the parser has already turned `all`, `exists`, `map` and `filter` into this form.
    fn comprehension(&mut self, at: &IdedExpr, loops: &ComprehensionExpr) -> Type {
        let element = match self.type_of(&loops.iter_range) {
            Type::List(element) => *element,
            Type::Map(key, _) => *key,
            Type::Any => Type::Any,
            other => self.problem(
                &loops.iter_range,
                format!("{other} cannot be iterated over"),
            ),
        };
        if self.loops >= MAX_LOOPS {
            return self.problem(at, format!("loops may be nested {MAX_LOOPS} deep"));
        }
        let variable = loops.iter_var.as_str();
        // With a local `scan` a condition would seem to name `scan.unknown`.
        if variables(self.scope)
            .iter()
            .any(|(known, _)| *known == variable)
        {
            let message =
                format!("`{variable}` already has a meaning; name the loop's variable otherwise");
            return self.problem(at, message);
        }
        let start = self.type_of(&loops.accu_init);
        let outside = self.locals.len();
        self.loops += 1;
        self.locals.push((loops.iter_var.clone(), element));
        self.locals.push((loops.accu_var.clone(), start));
        self.type_of(&loops.loop_cond);
        let step = self.type_of(&loops.loop_step);
        self.locals.push((loops.accu_var.clone(), step));
        let result = self.type_of(&loops.result);
        self.locals.truncate(outside);
        self.loops -= 1;
        result
    }

    fn method(&mut self, at: &IdedExpr, call: &CallExpr, target: &IdedExpr) -> Type {
        let name = call.func_name.as_str();
        let on = self.type_of(target);
        let arguments: Vec<Type> = call
            .args
            .iter()
            .map(|argument| self.type_of(argument))
            .collect();
        if name == "size" && arguments.is_empty() {
            return self.size(at, &on);
        }
        if !TEXT_METHODS.contains(&name) {
            let hint = hint(name, TEXT_METHODS.into_iter().chain(["size"]));
            return self.problem(at, format!("unknown function `{name}`{hint}"));
        }
        let fits =
            on.fits(&Type::Text) && matches!(arguments.as_slice(), [one] if one.fits(&Type::Text));
        if !fits {
            let given = listed(&arguments);
            let message = format!(
                "`{name}` is called on a string with one string, as in `tag.{name}(\"...\")`; this is {on}.{name}({given})"
            );
            return self.problem(at, message);
        }
        if let [argument] = call.args.as_slice()
            && PATTERN_METHODS.contains(&name)
        {
            // A pattern from a label would be written by the builder of the image.
            match literal_text(argument) {
                Some(text) => {
                    if let Some(fault) = functions::argument_error(name, text) {
                        self.problem(argument, fault);
                    }
                }
                None => {
                    let message = format!("`{name}` takes its pattern as text in quotes only");
                    self.problem(argument, message);
                }
            }
        }
        Type::Bool
    }

    fn call(&mut self, at: &IdedExpr, call: &CallExpr) -> Type {
        match (call.func_name.as_str(), call.args.as_slice()) {
            (op::LOGICAL_AND | op::LOGICAL_OR, arguments) => {
                for argument in arguments {
                    self.expect(argument, &Type::Bool);
                }
                Type::Bool
            }
            (op::LOGICAL_NOT | op::NOT_STRICTLY_FALSE, [argument]) => {
                self.expect(argument, &Type::Bool);
                Type::Bool
            }
            (op::CONDITIONAL, [condition, yes, no]) => {
                self.expect(condition, &Type::Bool);
                let (yes, no) = (self.type_of(yes), self.type_of(no));
                if yes.fits(&no) {
                    yes.joined(no)
                } else {
                    self.problem(at, format!("the branches differ: {yes} and {no}"))
                }
            }
            (op::NEGATE, [argument]) => {
                let found = self.type_of(argument);
                if found.is_number() || found == Type::Duration {
                    found
                } else {
                    self.problem(at, format!("{found} cannot be negated"))
                }
            }
            (operator, [left, right]) => {
                let types = (self.type_of(left), self.type_of(right));
                self.binary(at, operator, types)
            }
            (function, arguments) => self.function(at, function, arguments),
        }
    }

    fn binary(&mut self, at: &IdedExpr, operator: &str, types: (Type, Type)) -> Type {
        let (left, right) = types;
        let numbers = left.is_number() && right.is_number();
        match operator {
            op::EQUALS | op::NOT_EQUALS if numbers || left.fits(&right) => Type::Bool,
            op::EQUALS | op::NOT_EQUALS => {
                self.problem(at, format!("{left} cannot be compared with {right}"))
            }
            op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS => {
                if numbers || (left.fits(&right) && left.is_ordered() && right.is_ordered()) {
                    Type::Bool
                } else {
                    self.problem(at, format!("{left} and {right} have no order"))
                }
            }
            op::IN => match &right {
                Type::Any => Type::Bool,
                Type::List(element) | Type::Map(element, _) if element.fits(&left) => Type::Bool,
                _ => self.problem(at, format!("{left} cannot be searched in {right}")),
            },
            op::INDEX => match index_type(left, &right) {
                Ok(found) => found,
                Err(message) => self.problem(at, message),
            },
            op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO => {
                arithmetic(operator, &left, &right).unwrap_or_else(|| {
                    let sign = operator.trim_matches('_');
                    self.problem(at, format!("`{sign}` does not apply to {left} and {right}"))
                })
            }
            other if FUNCTIONS.contains(&other) => {
                self.problem(at, format!("`{other}` takes one argument"))
            }
            other => {
                let hint = hint(other, FUNCTIONS);
                self.problem(at, format!("unknown function `{other}`{hint}"))
            }
        }
    }

    fn function(&mut self, at: &IdedExpr, name: &str, arguments: &[IdedExpr]) -> Type {
        if !FUNCTIONS.contains(&name) {
            let hint = if TEXT_METHODS.contains(&name) {
                format!("; write it after the string, as in `tag.{name}(\"...\")`")
            } else {
                hint(name, FUNCTIONS)
            };
            return self.problem(at, format!("unknown function `{name}`{hint}"));
        }
        let [argument] = arguments else {
            return self.problem(at, format!("`{name}` takes one argument"));
        };
        if name == "size" {
            let on = self.type_of(argument);
            return self.size(at, &on);
        }
        self.expect(argument, &Type::Text);
        if let Some(text) = literal_text(argument)
            && Value::resolve(at, &Context::with_env(Arc::clone(self.environment))).is_err()
        {
            let form = if name == "duration" {
                "write hours, minutes or seconds, as in `72h`"
            } else {
                "write it as in `2026-01-31T00:00:00Z`"
            };
            self.problem(argument, format!("`{text}` is not a {name}; {form}"));
        }
        if name == "duration" {
            Type::Duration
        } else {
            Type::Timestamp
        }
    }

    fn size(&mut self, at: &IdedExpr, on: &Type) -> Type {
        match on {
            Type::Any | Type::Text | Type::Bytes | Type::List(_) | Type::Map(..) => Type::Int,
            other => self.problem(at, format!("{other} has no size")),
        }
    }
}

fn literal_type(literal: &LiteralValue) -> Type {
    match literal {
        LiteralValue::Boolean(_) => Type::Bool,
        LiteralValue::Bytes(_) => Type::Bytes,
        LiteralValue::Double(_) => Type::Double,
        LiteralValue::Int(_) => Type::Int,
        LiteralValue::Null => Type::Null,
        LiteralValue::String(_) => Type::Text,
        LiteralValue::UInt(_) => Type::Uint,
    }
}

fn literal_text(expression: &IdedExpr) -> Option<&str> {
    match &expression.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner()),
        _ => None,
    }
}

fn index_type(operand: Type, key: &Type) -> Result<Type, String> {
    match operand {
        Type::List(element) if key.fits(&Type::Int) => Ok(*element),
        Type::Map(wanted, value) if key.fits(&wanted) => Ok(*value),
        Type::Any => Ok(Type::Any),
        other => Err(format!("{other} has no element by {key}")),
    }
}

fn arithmetic(operator: &str, left: &Type, right: &Type) -> Option<Type> {
    match (operator, left, right) {
        (op::SUBSTRACT, Type::Timestamp, Type::Timestamp) => Some(Type::Duration),
        (op::SUBSTRACT | op::ADD, Type::Timestamp, Type::Duration)
        | (op::ADD, Type::Duration, Type::Timestamp) => Some(Type::Timestamp),
        (op::SUBSTRACT | op::ADD, Type::Duration, Type::Duration) => Some(Type::Duration),
        (op::ADD, Type::List(a), Type::List(b)) => Some(Type::List(Box::new(
            a.as_ref().clone().joined(b.as_ref().clone()),
        ))),
        (op::ADD, Type::Text, Type::Text) => Some(Type::Text),
        (op::ADD, Type::Bytes, Type::Bytes) => Some(Type::Bytes),
        _ if left.is_number() && right.is_number() && left.fits(right) => {
            Some(left.clone().joined(right.clone()))
        }
        _ => None,
    }
}

fn listed(types: &[Type]) -> String {
    types
        .iter()
        .map(Type::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// Returns the line and column of an offset.
fn place(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    format!("line {line}, column {column}")
}

/// Suggests the name that was probably meant.
fn hint<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let near = known
        .iter()
        .map(|candidate| (strsim::levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= 2)
        .min();
    match near {
        Some((_, candidate)) => format!(", did you mean `{candidate}`?"),
        None => format!("; there are `{}`", known.join("`, `")),
    }
}
