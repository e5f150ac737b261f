//! JSON with one form: no white space, and the keys in order.

use std::collections::BTreeMap;

use serde_json::Value;

/// Writes a document without white space, its keys in order at every level.
pub(crate) fn write(value: &Value, to: &mut String) {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<&String, &Value> = fields.iter().collect();
            to.push('{');
            for (nth, (key, field)) in fields.into_iter().enumerate() {
                if nth > 0 {
                    to.push(',');
                }
                write(&Value::from(key.as_str()), to);
                to.push(':');
                write(field, to);
            }
            to.push('}');
        }
        Value::Array(items) => {
            to.push('[');
            for (nth, item) in items.iter().enumerate() {
                if nth > 0 {
                    to.push(',');
                }
                write(item, to);
            }
            to.push(']');
        }
        scalar => to.push_str(&scalar.to_string()),
    }
}
