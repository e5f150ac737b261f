//! Values of settings in nested dictionaries, by paths of keys.

use figment::value::{Dict, Value};

/// Sets the value at a path, creating dictionaries on the way.
pub(super) fn insert(dict: &mut Dict, path: &[&str], text: &str) {
    let [first, rest @ ..] = path else {
        return;
    };
    if rest.is_empty() {
        dict.insert((*first).to_owned(), parse_value(text));
        return;
    }
    let inner = dict
        .entry((*first).to_owned())
        .or_insert_with(|| Value::from(Dict::new()));
    if inner.as_dict().is_none() {
        *inner = Value::from(Dict::new());
    }
    if let Value::Dict(_, inner) = inner {
        insert(inner, rest, text);
    }
}

/// Parses numbers, booleans and lists; other texts stay texts.
fn parse_value(text: &str) -> Value {
    let Ok(value) = text.parse::<Value>();
    match value {
        Value::Num(..) | Value::Bool(..) | Value::Array(..) | Value::Dict(..) => value,
        _ => Value::from(text),
    }
}

/// Returns the value at a path.
pub(super) fn find<'d>(dict: &'d mut Dict, path: &[String]) -> Option<&'d mut Value> {
    let (first, rest) = path.split_first()?;
    match dict.get_mut(first)? {
        value if rest.is_empty() => Some(value),
        Value::Dict(_, inner) => find(inner, rest),
        _ => None,
    }
}

/// Removes the value at a path, or the value that ends the path early, such as a list with an error inside; says
/// whether there was one.
pub(super) fn remove(dict: &mut Dict, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return false;
    };
    match dict.get_mut(first) {
        None => false,
        Some(Value::Dict(_, inner)) if !rest.is_empty() => remove(inner, rest),
        Some(_) => dict.remove(first).is_some(),
    }
}
